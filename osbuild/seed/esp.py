"""A seed on the disk itself: the folder /seed of the EFI system partition of an image or block device."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from osbuild import gpt
from osbuild.errors import Error
from osbuild.run import run

FOLDER = "seed"
Wrap = Callable[[Sequence[str], Sequence[Path]], list[str]]


def partition(disk: Path) -> gpt.Partition:
    """The one EFI system partition of a disk. Raises `Error` where there is none, or no partition table."""
    found = [entry for entry in gpt.read(disk).partitions if entry.type == gpt.ESP]
    if len(found) != 1:
        raise Error(
            f"{len(found)} EFI system partitions, expected one",
            where=str(disk),
            hint="give a disk image made by `edge-osbuild build`, or the whole device that it was written to",
        )
    return found[0]


def place(files: Mapping[str, bytes], disk: Path, *, wrap: Wrap | None = None) -> None:
    """Write `files` to /seed of the EFI system partition of `disk`, replacing what is there, the last one last.

    mtools(1) does it, on the host or, with `wrap`, in the tools tree; nothing is mounted.
    """
    if not os.access(disk, os.W_OK):
        raise Error(
            "cannot be written", where=str(disk), hint="does it exist? A device needs root, or the group `disk`"
        )
    offset = partition(disk).offset
    if wrap is None and shutil.which("mcopy") is None:
        raise Error("mtools is missing", hint="run `apt-get install mtools`")
    with tempfile.TemporaryDirectory(prefix="edge-seed-") as scratch:
        config = Path(scratch, "mtoolsrc")
        config.write_text(f'drive s: file="{disk}" offset={offset}\nmtools_skip_check=1\n')
        folder = Path(scratch, FOLDER)
        folder.mkdir()

        def mtools(*words: str) -> None:
            command = ["env", f"MTOOLSRC={config}", "SOURCE_DATE_EPOCH=315532800", *words]
            run(wrap(command, [Path(scratch), disk]) if wrap else command)

        if any(name == FOLDER for name in listing(disk, offset)):
            mtools("mdeltree", f"s:/{FOLDER}")
        mtools("mmd", f"s:/{FOLDER}")
        for name, data in files.items():
            (folder / name).write_bytes(data)
            mtools("mcopy", str(folder / name), f"s:/{FOLDER}/{name}")


def listing(disk: Path, offset: int) -> list[str]:
    """The names in the root folder of the FAT file system at `offset` bytes, in lower case."""
    from osbuild.fat import Fat

    with disk.open("rb") as image:
        return [str(file.path).lower() for file in Fat(image, offset, str(disk)).walk() if len(file.path.parts) == 1]
