"""Which boards a command is for: `--board`, `--arch`, or what the profile says."""

from collections.abc import Callable
from typing import Any

import click

from osbuild import board as boards
from osbuild.arch import Architecture
from osbuild.board import Board
from osbuild.errors import UsageError
from osbuild.profile.load import Loaded, find, load

ALL = "all"


def board_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--arch` and `--board` to a command."""
    names = ", ".join(boards.shipped())
    text = "Use the UEFI board of this architecture, or of every one.  [default: the profile's]"
    command = click.option("--board", metavar="NAME", help=f"Use this board: {names}, or a file.")(command)
    return click.option("--arch", type=click.Choice([*map(str, Architecture), ALL]), help=text)(command)


def chosen(profile: str, arch: str | None, board: str | None) -> list[tuple[Loaded, Board]]:
    """The profile and the board, once for each image that is asked for. Raises `Error` or `UsageError`."""
    path = find(profile)
    if arch == ALL:
        if board:
            raise UsageError("--board cannot be combined with --arch all", hint="leave one of them out")
        return [(load(path, architecture=each), boards.default(each)) for each in Architecture]
    if board:
        wanted = boards.load(board)
        if arch not in (None, str(wanted.architecture)):
            message = f"the board {wanted.name} is {wanted.architecture}, not {arch}"
            raise UsageError(message, hint="leave out --arch: the board determines it")
    elif arch:
        wanted = boards.default(Architecture(arch))
    else:
        loaded = load(path)
        wanted = boards.of(loaded)
    return [(load(path, architecture=wanted.architecture), wanted)]
