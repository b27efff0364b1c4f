"""File locks between processes (flock(2)). The kernel drops the locks of a process when the process ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.05  # seconds between two attempts


def lock_descriptor(descriptor: int, *, shared: bool = False, patience: float | None = None) -> None:
    """Lock an open file until it is closed. Several processes may hold a `shared` lock.

    Waits without limit, or for `patience` seconds. Raises `BlockingIOError` after that.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if patience is None:
        fcntl.flock(descriptor, operation)
        return
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE)


@contextmanager
def hold_file_lock(path: Path, *, shared: bool = False, create: int | None = None) -> Iterator[None]:
    """Wait for the file lock of `path`, a folder or file, and hold it. Raises `OSError`.

    With `create`, the path is a lock file: it is created with this mode if it is missing, even if the previous holder
    has removed it.
    """
    flags = os.O_RDONLY if create is None else os.O_RDWR | os.O_CREAT
    while True:
        # O_NONBLOCK: a FIFO in its place is locked like a file, and opening it does not wait.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, create or 0)
        try:
            lock_descriptor(descriptor, shared=shared)
            if create is None or is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the file at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether a process holds an exclusive lock of `path`; False if there is none. Never waits. Raises `OSError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return is_in_lock_table(path.stat())
    try:
        lock_descriptor(descriptor, shared=True, patience=0)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_in_lock_table(status: os.stat_result) -> bool:
    """Whether /proc/locks (proc_locks(5)), which every user may read, lists an exclusive lock of a file."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    rows = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(row[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and row[5] == device for row in rows)
