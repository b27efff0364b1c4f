"""Progress of an installation: one changing line on a terminal, several lines elsewhere, JSON for scripts."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

# Called with percent, the current step, and the number of fetched bytes, or None if nothing is fetched.
ProgressCallback = Callable[[int, str, int | None], None]
STEP = 10  # percent between two lines of a log


@dataclass
class Progress:
    """`machine` selects JSON: one object per line."""

    machine: bool = False
    output: TextIO = field(default_factory=lambda: sys.stdout)
    width: int = 0  # of the current line on the terminal
    percent: int = -STEP

    def report_event(self, kind: str, text: str, **details: Any) -> None:
        """Report an event. `details` are only printed as JSON."""
        if self.machine:
            self.write_line(json.dumps({"event": kind, "text": text, **details}))
            return
        self.end_line()
        self.write_line(text)

    def report_progress(self, percent: int, text: str, fetched: int | None) -> None:
        """Report progress. `fetched` is in bytes, None if nothing is fetched."""
        if self.machine:
            event = {"event": "progress", "percent": percent, "text": text, "fetched": fetched}
            self.write_line(json.dumps(event))
            return
        line = f"{percent:3d} %  {text}" + (f", {format_mb(fetched)} fetched" if fetched is not None else "")
        if self.output.isatty():
            self.output.write(f"\r{line:{self.width}}")
            self.output.flush()
            self.width = len(line)
        elif percent >= self.percent + STEP:
            self.percent = percent
            self.write_line(line)

    def end_line(self) -> None:
        """End the changing line on the terminal."""
        if self.width:
            self.output.write("\n")
            self.width = 0

    def write_line(self, text: str) -> None:
        self.output.write(text + "\n")
        self.output.flush()


def format_mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
