"""What an installation says while it runs: one line that changes on a terminal, lines elsewhere, JSON for a script."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

# Told percent, what is done, and bytes fetched, None where nothing is.
ProgressCallback = Callable[[int, str, int | None], None]
STEP = 10  # percent between two lines of a log


@dataclass
class Progress:
    """`machine`: one JSON object a line, with the time's own fields as they are."""

    machine: bool = False
    output: TextIO = field(default_factory=lambda: sys.stdout)
    width: int = 0  # of the line that is on the terminal now
    percent: int = -STEP

    def report_event(self, kind: str, text: str, **facts: Any) -> None:
        """Something that happened."""
        if self.machine:
            self.write_line(json.dumps({"event": kind, "text": text, **facts}))
            return
        self.end_line()
        self.write_line(text)

    def report_progress(self, percent: int, text: str, fetched: int | None) -> None:
        """How far it is; `fetched` is in bytes, None where nothing is fetched."""
        if self.machine:
            metadata = {"event": "progress", "percent": percent, "text": text, "fetched": fetched}
            self.write_line(json.dumps(metadata))
            return
        shown = f"{percent:3d} %  {text}" + (f", {format_mb(fetched)} fetched" if fetched is not None else "")
        if self.output.isatty():
            self.output.write(f"\r{shown:{self.width}}")
            self.output.flush()
            self.width = len(shown)
        elif percent >= self.percent + STEP:
            self.percent = percent
            self.write_line(shown)

    def end_line(self) -> None:
        """Leave the line that changes as it is."""
        if self.width:
            self.output.write("\n")
            self.width = 0

    def write_line(self, text: str) -> None:
        self.output.write(text + "\n")
        self.output.flush()


def format_mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
