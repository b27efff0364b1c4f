"""A seed on the disk itself: the folder /seed of the EFI system partition of an image or block device."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from osbuild.formats import gpt
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.host.scratch import temporary_folder
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.seed.iso import EPOCH
from osbuild.shared.errors import Error

FOLDER = "seed"
DISK_HINT = "give a disk image made by `edge-osbuild build`, or the whole device that it was written to"
Wrap = Callable[[Sequence[str], Sequence[Path]], list[str]]


def find_esp(disk: Path) -> gpt.Partition:
    """The one EFI system partition of a disk. Raises `Error` where there is none, or no partition table."""
    return gpt.find_esp(gpt.read_table(disk), str(disk), DISK_HINT)


def find_mtools(cache: Cache) -> Wrap:
    """How to run mtools(1): on this host, or in a tools tree that a build left in the cache. Raises `Error`."""
    if shutil.which("mcopy"):
        return lambda command, _: list(command)
    for root in sorted(cache.folder("tools").iterdir()):
        if (root / "usr/bin/mcopy").exists():
            return ToolsTree(root).wrap_command
    raise Error("mtools is missing", hint="run `apt-get install mtools`, or build an image on this host first")


def write_seed(files: Mapping[str, bytes], disk: Path, offset: int, *, wrap: Wrap) -> None:
    """Write `files` to /seed of the FAT file system `offset` bytes into the file `disk`, replacing what is there.

    The last file is written last. `wrap` makes the command line that runs mtools(1); nothing is mounted.
    """
    with disk.open("rb") as image:
        top = [file.path.name.lower() for file in Fat(image, offset, str(disk)).walk() if len(file.path.parts) == 1]
    with temporary_folder("seed") as scratch:
        config = scratch / "mtoolsrc"
        config.write_text(f'drive s: file="{disk}" offset={offset}\nmtools_skip_check=1\n')

        def run_one(*arguments: str) -> None:
            command = ["env", f"MTOOLSRC={config}", f"SOURCE_DATE_EPOCH={EPOCH}", *arguments]
            run_command(wrap(command, [scratch, disk]), hint="is the EFI system partition full, or the disk in use?")

        if FOLDER in top:
            run_one("mdeltree", f"s:/{FOLDER}")
        run_one("mmd", f"s:/{FOLDER}")
        for name, data in files.items():
            (scratch / name).write_bytes(data)
            run_one("mcopy", str(scratch / name), f"s:/{FOLDER}/{name}")
