"""Files that a power cut can't tear: replaced as a whole, on the disk when a call returns; and free space."""

import errno
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

LARGEST = 64 * 2**20  # bytes of a file that is read as a whole
DAMAGED = ".damaged"  # what the name of a damaged file gets at its end


def read_file(path: Path) -> bytes:
    """The contents of an ordinary file. Raises `OSError`, also for a folder, a FIFO and the like, or a huge file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a folder" if stat.S_ISDIR(status.st_mode) else "not a file", str(path))
        if status.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"larger than {LARGEST} bytes", str(path))
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename what is at `path` to NAME.damaged, in the place of an earlier one; the new name. Raises `OSError`."""
    aside = path.with_name(f"{path.name}{DAMAGED}")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
    sync_path(path.parent)
    return aside


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Have a folder at `folder`. A file in its place, or in that of one above it, is set aside. Raises `OSError`."""
    for path in (*reversed(folder.parents), folder):
        if os.path.lexists(path) and not path.is_dir():
            print(f"edge-agent: {path} is damaged: not a folder; kept as {set_aside(path).name}", file=sys.stderr)
    folder.mkdir(mode=mode, parents=True, exist_ok=True)


def clear_way(path: Path) -> None:
    """Have at most an ordinary file at `path`: anything else is set aside. Raises `OSError`."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        print(f"edge-agent: {path} is damaged: not a file; kept as {set_aside(path).name}", file=sys.stderr)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file: written beside, flushed to the disk, renamed. Makes the folder where it is missing."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    if path.is_dir():
        clear_way(path)
    create_file(beside, data, mode)
    beside.rename(path)
    sync_path(path.parent)


def create_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write the new file `path`, on the disk when this returns; without `mode`, the umask decides. Raises `OSError`."""
    with os.fdopen(open_new(path, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def open_new(path: Path, mode: int | None = None) -> int:
    """A descriptor of the new file `path`, to write to; without `mode`, the umask decides. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if mode is None else mode)
    if mode is not None:
        os.fchmod(descriptor, mode)
    return descriptor


def replace_link(path: Path, target: Path | str) -> None:
    """Replace a symbolic link: a new one beside it, renamed over it. Raises `OSError`."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    sync_path(path.parent)
    beside.rename(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Bring the names in a folder, or the content of a file, to the disk (fsync(2)). Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileSystemSpace:
    """Bytes of a file system: all of them, and those that programs may still write."""

    size: int
    free: int


def file_system_space(path: Path) -> FileSystemSpace | None:
    """The space of the file system that `path` is on; None if it is not known."""
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return FileSystemSpace(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
