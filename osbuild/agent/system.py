"""The running system: where its facts are read from, and how files are written so that a power cut can't tear them."""

import errno
import fcntl
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 64 * 2**20  # bytes of a file that is read as a whole
DAMAGED = ".damaged"  # what the name of a damaged file gets at its end


@dataclass(frozen=True)
class System:
    """`root` is `/` on a device and a folder of files in tests."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """An absolute path of the device, below `root`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The text of a file, empty where there is none or it can't be read."""
        try:
            return read_file(self.path(name)).decode(errors="replace")
        except OSError:
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """An object from a JSON file, empty where there is none or it is broken."""
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def image(self) -> dict[str, Any]:
        """What the build wrote about the running image."""
        return self.json("/usr/lib/edge-osbuild/image.json")

    def argument(self, name: str) -> str | None:
        """The value of `name=` on the kernel command line (proc(5)), the last one if there are several."""
        words = [word.partition("=") for word in self.text("/proc/cmdline").split()]
        return next((value for key, equals, value in reversed(words) if key == name and equals), None)

    def uptime(self) -> float:
        """Seconds since the kernel started (proc(5))."""
        return float((self.text("/proc/uptime") or "0").split()[0])


def read_file(path: Path) -> bytes:
    """The contents of an ordinary file. Raises `OSError`, also for a folder, a FIFO and the like, or a huge file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "a folder" if stat.S_ISDIR(found.st_mode) else "not a file", str(path))
        if found.st_size > LARGEST:
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
    flush(path.parent)
    return aside


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Have a folder at `folder`. A file in its place, or in that of one above it, is set aside. Raises `OSError`."""
    for place in (*reversed(folder.parents), folder):
        if os.path.lexists(place) and not place.is_dir():
            print(f"edge-agent: {place} is damaged: not a folder; kept as {set_aside(place).name}", file=sys.stderr)
    folder.mkdir(mode=mode, parents=True, exist_ok=True)


def clear(path: Path) -> None:
    """Have at most an ordinary file at `path`: anything else is set aside. Raises `OSError`."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        print(f"edge-agent: {path} is damaged: not a file; kept as {set_aside(path).name}", file=sys.stderr)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file: written beside, flushed to the disk, renamed. Makes the folder where it is missing."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    if path.is_dir():
        clear(path)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    beside.rename(path)
    flush(path.parent)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Have `folder` to oneself: another process that does the same waits (flock(2)). Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    """Bring the names in a folder, or the content of a file, to the disk (fsync(2)). Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
