"""Real file systems for tests, of a few MB: one that fills up, and one that is read-only. They need root."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mount_tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes at the new `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Use up all free space."""
    with (folder / ".filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@contextmanager
def full(folder: Path) -> Iterator[Path]:
    """Keep the file system at `folder` full until the end of the block."""
    fill(folder)
    try:
        yield folder
    finally:
        (folder / ".filler").unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Keep the file system at `folder` read-only until the end of the block."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


def read_contents(folder: Path) -> dict[str, bytes]:
    """Return every file and folder below `folder` except the filler, by relative path."""
    return {
        str(path.relative_to(folder)): b"a folder" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name != ".filler"
    }
