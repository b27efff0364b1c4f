"""Lists everything below a folder, always in the same order, without following links.

The build runs as root, and a user who may write to an overlay need not be allowed to read every file of the host. So
folders are read by descriptor: if another process replaces a folder with a link during the walk, the walk fails.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DEEPEST = 128  # levels of folders; each one needs an open file, and other programs have limits too


@dataclass(frozen=True)
class WalkedFile:
    """One file, link or folder. `path` is relative to the top of the walk.

    `folder` is a descriptor of the parent folder, open until the walk continues.
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

    def link_target(self) -> str:
        """Return the target as the link stores it, including a slash at its end."""
        return os.readlink(self.path.name, dir_fd=self.folder)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file for reading. Raises `OSError`, also if the file was replaced since it was listed."""
        descriptor = os.open(self.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                             dir_fd=self.folder)  # fmt: skip
        try:
            if not os.path.samestat(os.fstat(descriptor), self.status):
                raise OSError(f"{self.path} was replaced during the walk")
            yield descriptor
        finally:
            os.close(descriptor)


def walk_folder(folder: Path | str) -> Iterator[WalkedFile]:
    """Yield every file, link and folder below `folder`, in an order that depends on names only.

    `folder` itself may be a link. Raises `OSError` if a folder can't be read, or folders are nested too deeply.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _walk_open_folder(descriptor, PurePosixPath())
    finally:
        os.close(descriptor)


def _walk_open_folder(folder: int, path: PurePosixPath) -> Iterator[WalkedFile]:
    for name in sorted(os.listdir(folder)):
        item = WalkedFile(path / name, os.stat(name, dir_fd=folder, follow_symlinks=False), folder)
        yield item
        if item.is_folder:
            if len(item.path.parts) > DEEPEST:
                top = PurePosixPath(*item.path.parts[:3])
                raise OSError(errno.ENAMETOOLONG, f"more than {DEEPEST} levels of folders", f"{top}/…")
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield from _walk_open_folder(inner, item.path)
            finally:
                os.close(inner)
