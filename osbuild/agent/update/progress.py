"""Progress of an installation: one changing line on a terminal, several lines elsewhere, JSON for scripts."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol, TextIO

from osbuild.shared.sizes import format_decimal

# Called with percent, the current step, and the number of fetched bytes, or None if nothing is fetched.
ProgressCallback = Callable[[int, str, int | None], None]
STEP = 10  # percent between two lines of a log


class ProgressEvent(StrEnum):
    """The kinds of progress events."""

    progress = "progress"
    error = "error"
    bundle = "bundle"
    parts = "parts"
    retry = "retry"
    installed = "installed"
    adaptive = "adaptive"
    plan = "plan"
    cluster = "cluster"
    switched = "switched"
    withdrawn = "withdrawn"
    reboot = "reboot"
    waiting = "waiting"
    trial = "trial"
    committed = "committed"
    interrupted = "interrupted"
    unswitched = "unswitched"
    rolled_back = "rolled-back"
    unknown = "unknown"


class Progress(Protocol):
    """Where the progress of an installation is reported."""

    def report_event(self, event: ProgressEvent, text: str, **details: Any) -> None:
        """Report an event."""
        ...

    def report_progress(self, percent: int, text: str, fetched: int | None) -> None:
        """Report progress. `fetched` is in bytes, None if nothing is fetched."""
        ...

    def end_line(self) -> None:
        """End a changing line: no more progress is reported."""
        ...


class ConsoleProgress:
    """One changing line on a terminal, several lines elsewhere."""

    def __init__(self, output: TextIO | None = None) -> None:
        self.output = output or sys.stdout
        self._width = 0  # of the current line on the terminal
        self._percent = -STEP  # of the last line of a log

    def report_event(self, event: ProgressEvent, text: str, **details: Any) -> None:
        """Print the text."""
        self.end_line()
        self._write_line(text)

    def report_progress(self, percent: int, text: str, fetched: int | None) -> None:
        """Print progress: every change on a terminal, otherwise one line per `STEP` percent."""
        line = f"{percent:3d} %  {text}" + (f", {format_decimal(fetched)} fetched" if fetched is not None else "")
        if self.output.isatty():
            self.output.write(f"\r{line:{self._width}}")
            self.output.flush()
            self._width = len(line)
        elif percent >= self._percent + STEP:
            self._percent = percent
            self._write_line(line)

    def end_line(self) -> None:
        """End the changing line on the terminal."""
        if self._width:
            self.output.write("\n")
            self._width = 0

    def _write_line(self, text: str) -> None:
        self.output.write(text + "\n")
        self.output.flush()


class JsonProgress:
    """One JSON object per line, with the details of an event."""

    def __init__(self, output: TextIO | None = None) -> None:
        self.output = output or sys.stdout

    def report_event(self, event: ProgressEvent, text: str, **details: Any) -> None:
        """Print the event with its details."""
        self.output.write(json.dumps({"event": event, "text": text, **details}) + "\n")
        self.output.flush()

    def report_progress(self, percent: int, text: str, fetched: int | None) -> None:
        """Print progress as an event."""
        self.report_event(ProgressEvent.progress, text, percent=percent, fetched=fetched)

    def end_line(self) -> None:
        """Nothing to do, because every line is complete."""
