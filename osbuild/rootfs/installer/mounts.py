"""Mounts in a private namespace, which end with this process (mount_namespaces(7))."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000  # mount(2)
DETACH = 2  # umount2(2)
NEW_NAMESPACE = 0x20000  # unshare(2)
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str | Path, target: Path, kind: str | None, flags: int) -> None:
    _checked(_libc.mount(os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags, None), target)


def _checked(status: int, target: Path) -> None:
    if status:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def enter_private_namespace() -> None:
    """Hide all further mounts of this process from other processes. Raises `OSError`."""
    _checked(_libc.unshare(NEW_NAMESPACE), Path("/"))
    _mount("none", Path("/"), None, RECURSIVE | PRIVATE)


class Mounts(ExitStack):
    """Mounts that are undone when the block ends, last first, including mount points that were created for them."""

    def add(self, source: str | Path, target: Path, kind: str | None = None, flags: int = 0) -> None:
        """Mount on an existing path (mount(2)). Raises `OSError`."""
        _mount(source, target, kind, flags)
        self.callback(_libc.umount2, os.fsencode(target), DETACH)

    def bind(self, source: Path, target: Path) -> None:
        """Bind `source`, a file or a folder with its submounts, to `target`, which is created if missing."""
        if not target.exists():
            self.enter_context(temporary_path(target, folder=source.is_dir()))
        self.add(source, target, None, BIND | RECURSIVE)


@contextmanager
def temporary_path(path: Path, *, folder: bool) -> Iterator[None]:
    """Create an empty file or folder, with missing parents, for the duration of the block."""
    created = []
    for parent in [*reversed(path.parents), *([path] if folder else [])]:
        if not parent.exists():
            parent.mkdir()
            created.append(parent)
    if not folder:
        path.touch()
    try:
        yield
    finally:
        if not folder:
            path.unlink()
        for parent in reversed(created):
            parent.rmdir()
