"""The types of paths on the command line, for all commands."""

import errno
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from osbuild.host.output import file_kind
from osbuild.host.paths import made_by_kernel

BLOCKING = ("a FIFO", "a socket", "a character device")  # the size of their contents is unknown


class Location(click.ParamType[Path]):
    """A path, which need not exist. `~/` is the user's home, even if the shell does not expand it (`--seed=~/x`)."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        if not value or "\0" in value:
            self.fail("the path is empty", param, ctx)
        path = Path(os.path.expanduser(value) if value == "~" or value.startswith("~/") else value)  # noqa: PTH111
        kind = None
        try:
            kind = file_kind(path.stat().st_mode)
        except OSError as error:  # the code that opens the path reports it
            if error.errno == errno.ELOOP:
                self.fail(f"{str(path)!r} is a link that leads back to itself", param, ctx)
        if kind in BLOCKING:
            self.fail(f"{str(path)!r} is {kind}: name a file or a folder", param, ctx)
        if made_by_kernel(path):
            self.fail(f"{str(path)!r} is made by the kernel, not stored on a disk: name another one", param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Use the shell's own completion of files."""
        return [CompletionItem(incomplete, type="file")]


class Folder(Location):
    """An existing folder; the path becomes absolute."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if not path.is_dir():
            self.fail(f"there is no folder {str(path)!r}", param, ctx)
        return path.absolute()  # programs with other current folders read it


LOCATION, FOLDER = Location(), Folder()
