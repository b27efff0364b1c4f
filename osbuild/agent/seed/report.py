"""What became of the seed at this boot: for `edge-agent status`, the health check, the journal and the console."""

import json
from dataclasses import asdict, dataclass, field

from osbuild.agent.console import print_on_console
from osbuild.agent.system import System
from osbuild.shared.files import write_file
from osbuild.shared.quoting import printable

FILE = "/run/edge-osbuild/seed.json"
CONSOLE_LINES = 8  # lines on the console, which may be slow


@dataclass
class SeedReport:
    """`source` is where the seed is from. `configured` is whether cloud-init has run to its end, with some seed."""

    source: str = ""
    digest: str = ""
    configured: bool = False
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem_lines(self) -> list[str]:
        """Errors and warnings for people."""
        listed = [f"seed error: {line}" for line in self.errors] + [f"seed warning: {line}" for line in self.warnings]
        return [printable(line) for line in listed]


def load_report(system: System) -> SeedReport:
    """The report of this boot so far; empty if there is none."""
    found = system.json(FILE)
    report = SeedReport()
    for name, default in asdict(report).items():
        if isinstance(value := found.get(name), type(default)):
            setattr(report, name, value)
    return report


def save_report(system: System, report: SeedReport) -> None:
    """Write the report; /run is in memory. Raises `OSError`."""
    write_file(system.path(FILE), json.dumps(asdict(report), indent=2).encode() + b"\n")


def announce_report(system: System, report: SeedReport, before: SeedReport) -> None:
    """Print what `report` has more than `before`: all of it to the journal, the first lines to the console."""
    known = set(before.problem_lines())
    lines = [line for line in report.problem_lines() if line not in known]
    for line in lines[:CONSOLE_LINES]:
        print_on_console(system, f"edge-osbuild: {line}")
    for line in lines[CONSOLE_LINES:]:
        print(f"edge-osbuild: {line}", flush=True)
    if len(lines) > CONSOLE_LINES:
        print_on_console(system, f"edge-osbuild: {len(lines) - CONSOLE_LINES} more: `edge-agent status` shows them")
    for line in report.notes:
        if line not in before.notes:
            print(f"seed: {line}", flush=True)
