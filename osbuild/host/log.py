"""Messages for the user during a command: nested steps with timings, notes, warnings and progress.

All of them are printed on standard error. Standard output is for results and `--json`. Control characters, for example
in the name of a file in an image, are escaped. With `use_json_lines`, each message is one line with a JSON object.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from osbuild.shared.errors import Error
from osbuild.shared.quoting import escaped

if TYPE_CHECKING:
    from rich.progress import Progress


def drop_senseless_size(environ: MutableMapping[str, str]) -> None:
    """Remove COLUMNS and LINES if no terminal has such a size: rich prints nothing at 0 columns, and fails at `²`."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,4}", environ.get(name, "80")):
            del environ[name]


drop_senseless_size(os.environ)
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
verbose = False
json_lines = False

_depth = ContextVar("depth", default=0)  # steps of several threads don't indent each other
_timings: list[tuple[int, str, float]] = []


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print `title` when the block begins, and its duration in seconds when it ends."""
    title, depth = escaped(title), _depth.get()
    indent = "  " * depth
    if json_lines:
        event(title)
    else:
        console.print(f"{indent}[bold]‣[/] {escape(title)}")
    begin = time.monotonic()
    offset = len(_timings)
    _timings.append((depth, title, 0.0))
    token = _depth.set(depth + 1)
    try:
        yield
    finally:
        _depth.reset(token)
        seconds = time.monotonic() - begin
        _timings[offset] = (depth, title, seconds)
        if seconds >= 1 and not json_lines:
            console.print(f"{indent}  [dim]{escape(title)}: {seconds:.1f} s[/]")


def timings() -> list[tuple[int, str, float]]:
    """Return every step so far as (depth, title, seconds), in the order in which they began."""
    return list(_timings)


def note(message: str) -> None:
    """Print one line at the current depth."""
    if json_lines:
        event(message)
        return
    console.print(f"{'  ' * _depth.get()}{escaped(message, lines=True)}", markup=False)


def debug(message: str) -> None:
    """Print one line if `--verbose` was given."""
    if verbose and json_lines:
        _write_object("debug", message, {})
    elif verbose:
        console.print(f"{'  ' * _depth.get()}{escaped(message, lines=True)}", style="dim", markup=False)


def warn(message: str) -> None:
    """Print one warning."""
    if json_lines:
        _write_object("warning", message, {})
        return
    console.print(f"{'  ' * _depth.get()}[yellow]warning:[/] ", end="")
    console.print(escaped(message, lines=True), markup=False)


def error(problem: Error) -> None:
    """Print an error with its hint."""
    if json_lines:
        details = {"where": problem.where, "hint": problem.hint}
        _write_object("error", problem.message, {name: value for name, value in details.items() if value})
        return
    console.print("[bold red]error:[/] ", end="")
    where = f"{escaped(problem.where)}: " if problem.where else ""
    console.print(where + escaped(problem.message, lines=True), markup=False)
    if problem.hint:
        console.print("  [bold]hint:[/] ", end="")
        console.print(escaped(problem.hint, lines=True), markup=False)


def event(message: str, **fields: object) -> None:
    """Print what has happened with fields, which are a part of the JSON object or printed as name=value."""
    if json_lines:
        _write_object("info", message, fields)
    else:
        text = " ".join([message, *(f"{name}={value}" for name, value in fields.items() if value not in ("", None))])
        print(escaped(text), file=sys.stderr, flush=True)


def use_json_lines() -> None:
    """Print each message as one JSON object with time, level and message from now on."""
    global json_lines
    json_lines = True


class _LibraryMessages(logging.Handler):
    """Prints what libraries log with Python's `logging` like the warnings of this program."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(self.format(record))


def print_library_warnings() -> None:
    """Print the warnings and errors of libraries from now on."""
    logging.basicConfig(
        handlers=[_LibraryMessages()], level=logging.WARNING, format="%(name)s: %(message)s", force=True
    )


def _write_object(level: str, message: str, fields: Mapping[str, object]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = json.dumps({"time": now, "level": level, "message": message, **fields}, default=str)
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bars() -> "Iterator[Progress]":
    """Progress bars of bytes with rate and remaining time; prints nothing without a terminal. Add tasks to it."""
    # Imported here, because most commands have nothing to show.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def progress(title: str, total: int | None) -> "Iterator[Progress]":
    """A progress bar of bytes; prints nothing without a terminal. Its task is 0: `.update(0, advance=BYTES)`."""
    with bars() as bar:
        bar.add_task("  " * _depth.get() + escaped(title), total=total)
        yield bar
