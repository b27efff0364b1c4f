"""What is below a folder, always in the same order, and never anything that a link there leads to.

Folders are read by descriptor, so that another process that puts a link in the place of one, while it is read, is
refused: the build runs as root, and whoever may write to an overlay need not be allowed to read all of the host.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Found:
    """One file, link or folder: `path` is relative to where the walk began, `folder` a descriptor of the one it is in.

    The descriptor is open until the walk goes on.
    """

    path: PurePosixPath
    status: os.stat_result
    folder: int

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    def leads_to(self) -> str:
        """What a link says, with a slash at its end if there is one."""
        return os.readlink(self.path.name, dir_fd=self.folder)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read a file by. Raises `OSError`, also if it is no longer the one that was found."""
        descriptor = os.open(self.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                             dir_fd=self.folder)  # fmt: skip
        try:
            if not os.path.samestat(os.fstat(descriptor), self.status):
                raise OSError(f"{self.path} was replaced while it was read")
            yield descriptor
        finally:
            os.close(descriptor)


def walk_folder(folder: Path | str) -> Iterator[Found]:
    """Every file, link and folder below `folder`, in an order that depends on names only.

    `folder` itself may be a link. Raises `OSError` if one can't be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _below(descriptor, PurePosixPath())
    finally:
        os.close(descriptor)


def _below(folder: int, path: PurePosixPath) -> Iterator[Found]:
    for name in sorted(os.listdir(folder)):
        found = Found(path / name, os.stat(name, dir_fd=folder, follow_symlinks=False), folder)
        yield found
        if found.is_folder:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield from _below(inner, found.path)
            finally:
                os.close(inner)
