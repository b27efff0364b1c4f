"""What became of the seed at this boot: for `edge-agent status`, the health check, the journal and the console."""

import json
from dataclasses import asdict, dataclass, field

from osbuild.agent.console import say
from osbuild.agent.system import System, write

FILE = "/run/edge-osbuild/seed.json"
SHOWN = 8  # lines on the console, which may be slow


@dataclass
class Report:
    """`source` is where the seed is from. `configured` is whether cloud-init has run to its end, with some seed."""

    source: str = ""
    digest: str = ""
    configured: bool = False
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Errors and warnings for people."""
        return [f"seed error: {line}" for line in self.errors] + [f"seed warning: {line}" for line in self.warnings]


def load(system: System) -> Report:
    """The report of this boot so far; empty if there is none."""
    found = system.json(FILE)
    report = Report()
    for name, default in asdict(report).items():
        if isinstance(value := found.get(name), type(default)):
            setattr(report, name, value)
    return report


def save(system: System, report: Report) -> None:
    """Write the report; /run is in memory. Raises `OSError`."""
    write(system.path(FILE), json.dumps(asdict(report), indent=2).encode() + b"\n")


def announce(system: System, report: Report, before: Report) -> None:
    """Print what `report` has more than `before`: all of it to the journal, the first lines to the console."""
    known = set(before.lines())
    lines = [line for line in report.lines() if line not in known]
    for line in lines[:SHOWN]:
        say(system, f"edge-osbuild: {line}")
    for line in lines[SHOWN:]:
        print(f"edge-osbuild: {line}", flush=True)
    if len(lines) > SHOWN:
        say(system, f"edge-osbuild: {len(lines) - SHOWN} more: `edge-agent status` shows them")
    for line in report.notes:
        if line not in before.notes:
            print(f"seed: {line}", flush=True)
