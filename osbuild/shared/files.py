"""Atomic and durable file changes, and the free space of file systems."""

import errno
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from osbuild.shared.temporary_file import temporary_file

LARGEST = 64 * 2**20  # bytes of the largest file that `read_file` reads
CHUNK = 2**20  # bytes that are read at once
DAMAGED = ".damaged"  # suffix of the name of a damaged file


def read_file(path: Path, *, links: bool = True) -> bytes:
    """The contents of a regular file. Raises `OSError`, also if it is not a regular file or larger than `LARGEST`.

    Without `links`, a symbolic link is an error: for files in folders of other users.
    """
    data = read_start(path, LARGEST + 1, links=links)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST} bytes", str(path))
    return data


def read_start(path: Path, size: int, *, links: bool = True) -> bytes:
    """The first `size` bytes of a regular file, fewer if it is shorter. Raises `OSError` like `read_file`.

    Never waits: a file of the kernel that has nothing to read yet, such as /proc/kmsg, is an error too.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a folder" if stat.S_ISDIR(status.st_mode) else "not a file", str(path))
        parts, left = [], size
        while left and (data := os.read(descriptor, min(left, CHUNK))):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename `path` to NAME.damaged, replacing an earlier one. Returns the new path. Raises `OSError`."""
    aside = path.with_name(f"{path.name}{DAMAGED}")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
    sync_path(path.parent)
    return aside


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder with its parents. A file in the place of one of them is set aside. Raises `OSError`."""
    if folder.is_dir():
        return
    for path in (*reversed(folder.parents), folder):
        if os.path.lexists(path) and not path.is_dir():
            print(f"edge-agent: {path} is damaged: not a folder; kept as {set_aside(path).name}", file=sys.stderr)
    folder.mkdir(mode=mode, parents=True, exist_ok=True)


def clear_way(path: Path) -> None:
    """Set aside what is at `path`, unless it is a regular file or missing. Raises `OSError`."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        print(f"edge-agent: {path} is damaged: not a file; kept as {set_aside(path).name}", file=sys.stderr)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file atomically, and wait until it is on the disk. Creates the folder if needed. Raises `OSError`.

    Several processes and threads may do so at the same time: the last one wins.
    """
    make_folder(path.parent)
    if path.is_dir():
        clear_way(path)
    with temporary_file(path) as (temporary, descriptor):
        os.fchmod(descriptor, mode)
        write_synced(descriptor, data)
        temporary.rename(path)
    sync_path(path.parent)


def create_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Create a file and wait until it is on the disk. Without `mode`, the umask applies. Raises `OSError`.

    If it cannot be written, for example on a full disk, it is removed again.
    """
    descriptor = open_new(path, mode)
    try:
        write_synced(descriptor, data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_synced(descriptor: int, data: bytes) -> None:
    """Write `data` to an open file and wait until it is on the disk. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def open_new(path: Path, mode: int | None = None) -> int:
    """Create a file and return a writable descriptor. Without `mode`, the umask applies. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if mode is None else mode)
    if mode is not None:
        os.fchmod(descriptor, mode)
    return descriptor


def replace_link(path: Path, target: Path | str) -> None:
    """Replace a symbolic link atomically, like `write_file`. Raises `OSError`."""
    with temporary_file(path) as (reserved, _):  # a link cannot be locked, so a file reserves its name
        temporary = reserved.with_name(f"{reserved.name}.link")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        sync_path(path.parent)
        temporary.rename(path)
        reserved.unlink()
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Write the names in a folder, or the contents of a file, to the disk (fsync(2)). Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileSystemSpace:
    """The size of a file system and the space that programs may still use, in bytes."""

    size: int
    free: int


def file_system_space(path: Path) -> FileSystemSpace | None:
    """The space of the file system that `path` is on; None if it is not known."""
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return FileSystemSpace(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
