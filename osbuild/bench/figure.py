"""What was measured, and what it should have been."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One value in `unit`. `target` is the most that it should be; without one it is there for comparison."""

    name: str
    title: str
    value: float
    unit: str
    target: float | None = None

    @property
    def over(self) -> bool:
        """The target was missed."""
        return self.target is not None and self.value > self.target

    @property
    def verdict(self) -> str:
        """One word for the table."""
        if self.target is None:
            return ""
        return "OVER" if self.over else "ok"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "over": self.over}


@dataclass(frozen=True)
class Measured:
    """What one measurement found: its figures, a line on what exactly they compare, and everything beside them."""

    figures: Sequence[Figure]
    meaning: str
    facts: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {"meaning": self.meaning, "figures": [figure.to_json() for figure in self.figures], **self.facts}


def format_value(value: float, unit: str) -> str:
    """A value for people: two digits behind the point where it is small."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def figures_table(measured: Sequence[Measured]) -> Table:
    """All figures with their targets."""
    made = Table(title="make bench")
    for title in ("figure", "measured", "target", ""):
        made.add_column(title, justify="right" if title in ("measured", "target") else "left")
    for number, measurement in enumerate(measured):
        if number:
            made.add_section()
        for figure in measurement.figures:
            target = "" if figure.target is None else f"≤ {figure.target:g} {figure.unit}"
            style = "bold red" if figure.over else "green" if figure.target is not None else None
            made.add_row(
                escape(figure.title), format_value(figure.value, figure.unit), target, figure.verdict, style=style
            )
    return made
