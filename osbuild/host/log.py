"""Messages for the user during a command: nested steps with timings, notes, warnings and progress.

All of them are printed on standard error. Standard output is for results and `--json`. Control characters, for example
in the name of a file in an image, are escaped.
"""

import os
import re
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
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

_depth = ContextVar("depth", default=0)  # steps of several threads don't indent each other
_timings: list[tuple[int, str, float]] = []


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print `title` when the block begins, and its duration in seconds when it ends."""
    title, depth = escaped(title), _depth.get()
    indent = "  " * depth
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
        if seconds >= 1:
            console.print(f"{indent}  [dim]{escape(title)}: {seconds:.1f} s[/]")


def timings() -> list[tuple[int, str, float]]:
    """Return every step so far as (depth, title, seconds), in the order in which they began."""
    return list(_timings)


def note(message: str) -> None:
    """Print one line at the current depth."""
    console.print(f"{'  ' * _depth.get()}{escaped(message, lines=True)}", markup=False)


def debug(message: str) -> None:
    """Print one line if `--verbose` was given."""
    if verbose:
        console.print(f"{'  ' * _depth.get()}{escaped(message, lines=True)}", style="dim", markup=False)


def warn(message: str) -> None:
    """Print one warning."""
    console.print(f"{'  ' * _depth.get()}[yellow]warning:[/] ", end="")
    console.print(escaped(message, lines=True), markup=False)


def error(problem: Error) -> None:
    """Print an error with its hint."""
    console.print("[bold red]error:[/] ", end="")
    where = f"{escaped(problem.where)}: " if problem.where else ""
    console.print(where + escaped(problem.message, lines=True), markup=False)
    if problem.hint:
        console.print("  [bold]hint:[/] ", end="")
        console.print(escaped(problem.hint, lines=True), markup=False)


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
