"""Files of a key folder: private, written whole or not at all, and on the disk when the call returns."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.agent.system import flush
from osbuild.errors import Error

PRIVATE, PUBLIC = 0o600, 0o644


def write(path: Path, data: bytes, *, mode: int) -> None:
    """Replace `path` by a file with `data`. What is there stays as it is if anything fails. Raises `Error`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        flush(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        hint = "check the folder, its mode and free space"
        raise Error(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error


def make_folder(path: Path) -> None:
    """A folder that nobody but its owner can look into. Raises `Error`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise Error(f"cannot be made: {error.strerror}", where=str(path), hint="name another folder") from error


def read(path: Path, what: str, hint: str) -> bytes:
    """The bytes of a file; `what` and `hint` are for the `Error` where it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Error(f"{what} is not there", where=str(path), hint=hint) from error
    except OSError as error:
        raise Error(f"{what} cannot be read: {error.strerror}", where=str(path), hint=hint) from error


def check_private(path: Path) -> None:
    """Raises `Error` where others than the owner may read or change `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        hint = f"chmod 600 {path}, and think about who may have read it: `edge-osbuild keys rotate` makes a new one"
        raise Error(f"others may use this private key: its mode is {mode:04o}", where=str(path), hint=hint)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock, so that two processes don't change the keys in `folder` at the same time."""
    make_folder(folder)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
