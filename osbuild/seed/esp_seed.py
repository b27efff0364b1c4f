"""A seed on the disk: the folder /seed on the ESP of a disk image or block device."""

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
DISK_HINT = "name a disk image of `edge-osbuild build`, or the whole device that it was written to"
Wrap = Callable[[Sequence[str], Sequence[Path]], list[str]]


def find_esp(disk: Path) -> gpt.Partition:
    """Return the ESP of a disk. Raises `Error` if there is not exactly one, or no partition table."""
    return gpt.find_esp(gpt.read_table(disk), str(disk), DISK_HINT)


def find_mtools(cache: Cache) -> Wrap:
    """Return a function that wraps a command with mtools(1), of this host or of a cached tools tree. Raises `Error`."""
    if shutil.which("mcopy"):
        return lambda command, _: list(command)
    for root in sorted(cache.folder("tools").iterdir()):
        if (root / "usr/bin/mcopy").exists():
            return ToolsTree(root).wrap_command
    raise Error("mtools is missing", hint="run `apt-get install mtools`, or build an image on this host first")


def write_seed(files: Mapping[str, bytes], disk: Path, offset: int, *, wrap: Wrap) -> None:
    """Replace /seed in the FAT file system at `offset` bytes in `disk` with `files`, in their order. Raises `Error`.

    `wrap` returns the command line that runs mtools(1); the file system is not mounted.
    """
    with disk.open("rb") as image:
        top_names = [
            file.path.name.lower() for file in Fat(image, offset, str(disk)).walk() if len(file.path.parts) == 1
        ]
    with temporary_folder("seed") as scratch:
        config = scratch / "mtoolsrc"
        config.write_text(f'drive s: file="{disk}" offset={offset}\nmtools_skip_check=1\n')

        def run_one(*arguments: str) -> None:
            command = ["env", f"MTOOLSRC={config}", f"SOURCE_DATE_EPOCH={EPOCH}", *arguments]
            run_command(
                wrap(command, [scratch, disk]), hint="check that the ESP is not full and the disk is not in use"
            )

        if FOLDER in top_names:
            run_one("mdeltree", f"s:/{FOLDER}")
        run_one("mmd", f"s:/{FOLDER}")
        for name, data in files.items():
            (scratch / name).write_bytes(data)
            run_one("mcopy", str(scratch / name), f"s:/{FOLDER}/{name}")
