"""The result of applying the seed, for `edge-agent status`, the health check, the journal and the console."""

import json
from dataclasses import asdict, dataclass, field

from osbuild.agent.console import print_on_console
from osbuild.agent.system import System
from osbuild.shared.files import write_file
from osbuild.shared.quoting import printable

FILE = "/run/edge-osbuild/seed.json"
CONSOLE_LINES = 8  # number of lines; a serial console may be slow


@dataclass
class SeedReport:
    """`source` says where the seed is from. `configured` means that cloud-init finished with this or another seed."""

    source: str = ""
    digest: str = ""
    configured: bool = False
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem_lines(self) -> list[str]:
        """Errors and warnings as printable lines."""
        lines = [f"seed error: {line}" for line in self.errors] + [f"seed warning: {line}" for line in self.warnings]
        return [printable(line) for line in lines]


def load_report(system: System) -> SeedReport:
    """The report of this boot so far; empty if there is none."""
    document = system.json(FILE)
    report = SeedReport()
    for name, default in asdict(report).items():
        if isinstance(value := document.get(name), type(default)):
            setattr(report, name, value)
    return report


def save_report(system: System, report: SeedReport) -> None:
    """Write the report to /run. Raises `OSError`."""
    write_file(system.path(FILE), json.dumps(asdict(report), indent=2).encode() + b"\n")


def announce_report(system: System, report: SeedReport, before: SeedReport) -> None:
    """Print the lines that `before` does not have: all to the journal, the first `CONSOLE_LINES` to the console."""
    known = set(before.problem_lines())
    lines = [line for line in report.problem_lines() if line not in known]
    for line in lines[:CONSOLE_LINES]:
        print_on_console(system, f"edge-osbuild: {line}")
    for line in lines[CONSOLE_LINES:]:
        print(f"edge-osbuild: {line}", flush=True)
    if len(lines) > CONSOLE_LINES:
        print_on_console(system, f"edge-osbuild: {len(lines) - CONSOLE_LINES} more lines: run `edge-agent status`")
    for line in report.notes:
        if line not in before.notes:
            print(f"seed: {line}", flush=True)
