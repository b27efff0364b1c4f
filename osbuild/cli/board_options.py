"""The boards of a command, from `--board`, `--arch` or the profile."""

from collections.abc import Callable
from typing import Any

import click

from osbuild.config import board as boards
from osbuild.config.board import Board
from osbuild.config.load import LoadedProfile, find_profile, load_profile
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import UsageError

ALL = "all"


def board_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--arch` and `--board` to a command."""
    names = ", ".join(boards.shipped_boards())
    text = "Build for the UEFI board of this architecture; `all` builds for each.  [default: the profile's]"
    command = click.option("--board", metavar="NAME", help=f"Build for this board: {names}, or a file.")(command)
    return click.option("--arch", type=click.Choice([*map(str, Architecture), ALL]), help=text)(command)


def chosen_boards(profile: str, arch: str | None, board: str | None) -> list[tuple[LoadedProfile, Board]]:
    """Return the profile and the board of each requested image. Raises `Error` or `UsageError`."""
    path = find_profile(profile)
    if arch == ALL:
        if board:
            raise UsageError("--board cannot be combined with --arch all", hint="leave one of them out")
        return [
            (load_profile(path, architecture=architecture), boards.default_board(architecture))
            for architecture in Architecture
        ]
    if board:
        target = boards.load_board(board)
        if arch not in (None, str(target.architecture)):
            message = f"the board {target.name} is {target.architecture}, not {arch}"
            raise UsageError(message, hint="leave out --arch: the board determines it")
    elif arch:
        target = boards.default_board(Architecture(arch))
    else:
        loaded = load_profile(path)
        target = boards.board_of(loaded)
    return [(load_profile(path, architecture=target.architecture), target)]
