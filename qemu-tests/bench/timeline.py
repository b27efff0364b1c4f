"""The timeline of a boot, and its picture as SVG."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, ROW, BAR = 1100, 210, 18, 26
COLOURS = ("#7b6888", "#a05d56", "#d0743c", "#c9a227", "#6b8e4e", "#3b7ea1", "#2a9d8f")


@dataclass(frozen=True)
class Span:
    """From `begin` to `end`, in seconds since power-on."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Timeline:
    """One boot: `phases` follow each other without a gap, `units` overlap; `complete` is boot-complete.target.

    `uncertain` is the error, in seconds, of the offset between host's and guest's clock; `witness` is the source of
    the time of Ready. `network` is when flannel can give pods addresses, in seconds since power-on.
    """

    phases: tuple[Span, ...]
    units: tuple[Span, ...]
    complete: float
    uncertain: float
    witness: str
    network: float | None = None

    @property
    def ready(self) -> float:
        """Seconds from power-on to Ready."""
        return self.phases[-1].end

    @property
    def commit_delay(self) -> float:
        """Seconds until the boot is complete, once the node is Ready, has its container images and a pod network."""
        imported = max((unit.end for unit in self.units if unit.name == "edge-images"), default=0.0)
        return self.complete - max(self.ready, imported, self.network or 0.0)


def draw_timelines(boots: Mapping[str, Timeline]) -> str:
    """Draw all `boots`, by title, in one picture to the same scale (SVG 1.1)."""
    last = max(max(boot.ready, boot.complete, *(unit.end for unit in boot.units)) for boot in boots.values())
    scale = (WIDTH - LABELS - 20) / last
    parts: list[str] = []
    y = 10
    for title, boot in boots.items():
        parts.append(_text(10, y + 16, f"{title}: Ready after {boot.ready:.1f} s", "font-weight='bold' font-size='14'"))
        y += 26
        height = BAR + 8 + ROW * len(boot.units)
        parts += _grid(y, height, last, scale)
        for number, phase in enumerate(boot.phases):
            parts.append(_bar(phase, y, BAR, COLOURS[number % len(COLOURS)], scale))
            wide = phase.seconds * scale
            if wide > 7 * len(phase.name) + 8:
                parts.append(_text(LABELS + phase.begin * scale + 4, y + 17, phase.name, "fill='white'"))
        complete = LABELS + boot.complete * scale
        parts.append(f"<path d='M{complete:.1f} {y}v{height}' stroke='#b00' stroke-dasharray='4 3'/>")
        parts.append(_text(10, y + 17, "phases (dashed: boot complete)"))
        y += BAR + 8
        for unit in boot.units:
            parts.append(_bar(unit, y, ROW - 5, "#9aa5b1", scale))
            parts.append(_text(10, y + 11, unit.name))
            y += ROW
        legend = "   ".join(f"{phase.name} {phase.seconds:.1f} s" for phase in boot.phases)
        parts.append(_text(10, y + 32, legend))
        y += 56
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{y}' viewBox='0 0 {WIDTH} {y}'"
    style = "font-family='sans-serif' font-size='12'"
    return "\n".join([f"{head} {style}>", f"<rect width='{WIDTH}' height='{y}' fill='white'/>", *parts, "</svg>", ""])


def _grid(y: int, height: int, last: float, scale: float) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**6) if last / step <= 16)
    lines = []
    for second in range(0, int(last) + 1, step):
        x = LABELS + second * scale
        lines.append(f"<path d='M{x:.1f} {y}v{height}' stroke='#ddd'/>")
        lines.append(_text(x, y + height + 12, f"{second} s", "text-anchor='middle' fill='#666' font-size='10'"))
    return lines


def _bar(span: Span, y: int, height: int, colour: str, scale: float) -> str:
    x, width = LABELS + span.begin * scale, max(1.0, span.seconds * scale)
    title = escape(f"{span.name}: {span.begin:.2f} to {span.end:.2f} s")
    box = f"x='{x:.1f}' y='{y}' width='{width:.1f}' height='{height}' fill='{colour}'"
    return f"<rect {box}><title>{title}</title></rect>"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{escape(text)}</text>"
