"""The running system: where its facts are read from, and how files are written so that a power cut can't tear them."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
            return self.path(name).read_text(errors="replace")
        except OSError:
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """An object from a JSON file, empty where there is none or it is broken."""
        try:
            found = json.loads(self.text(name))
        except ValueError:
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


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file: written beside, flushed to the disk, renamed. Makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
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
