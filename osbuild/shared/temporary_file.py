"""Temporary files that are renamed to the file that they replace."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from osbuild.shared.locks import is_at, lock_descriptor


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[Path, int]]:
    """Create a file beside `path`, to be renamed to `path`, and yield its path and a descriptor. Raises `OSError`.

    If an exception is raised, the file is removed. The file is locked: a file without a lock is a leftover of a power
    cut, which is removed, and its name is used again.
    """
    temporary, descriptor = create_beside(path)
    try:
        yield temporary, descriptor
    except BaseException:
        if is_at(descriptor, temporary):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def create_beside(path: Path) -> tuple[Path, int]:
    """Create and lock the first of `.NAME.new`, `.NAME.1.new`, … that no other writer uses."""
    for number in count():
        temporary = path.with_name(f".{path.name}.{number}.new" if number else f".{path.name}.new")
        if remove_leftover(temporary) and (descriptor := create_locked(temporary)) is not None:
            return temporary, descriptor
    raise AssertionError("count() has no end")


def create_locked(path: Path) -> int | None:
    """Create a file with mode 0600, lock it and return its descriptor; None if another process was faster."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return None
    lock_descriptor(descriptor)
    if is_at(descriptor, path):
        return descriptor
    os.close(descriptor)  # between the two calls, another process has removed it as a leftover
    return None


def remove_leftover(path: Path) -> bool:
    """Remove a file that a power cut has left at `path`. Returns False if a running writer has locked it."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
            return True
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        lock_descriptor(descriptor, patience=0)
        if is_at(descriptor, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
