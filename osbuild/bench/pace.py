"""Makes a disk as slow as a card, for this process and those that it starts.

Source: Linux, admin-guide/cgroup-v1/blkio-controller, and admin-guide/cgroup-v2, "IO".
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.flash.device import Host

FIRST = Path("/sys/fs/cgroup/blkio")
SECOND = Path("/sys/fs/cgroup")
NAME = "edge-osbuild-bench"


def disk_number(path: Path) -> str | None:
    """MAJOR:MINOR of the disk that a file is on; None where that is no block device."""
    number = path.stat().st_dev
    host = Host()
    name = f"{os.major(number)}:{os.minor(number)}"
    found = next((device for device in host.devices() if device.number == name), None)
    if found is not None and found.disk:
        found = host.device(found.disk)
    return found.number if found else None


@contextmanager
def paced(path: Path, rate: int) -> Iterator[bool]:
    """Let at most `rate` bytes a second be written to the disk of `path`; False where this host has no means for it."""
    number = disk_number(path)
    try:
        group = _group(number, rate) if number else None
    except OSError:  # not root, or a container's own view of the cgroups
        group = None
    if group is None:
        yield False
        return
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield True
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _group(number: str, rate: int) -> Path | None:
    """A group with that limit, of whichever version of cgroups can have one."""
    if (FIRST / "blkio.throttle.write_bps_device").exists():
        group, name, text = FIRST / NAME, "blkio.throttle.write_bps_device", f"{number} {rate}"
    elif "io" in _words(SECOND / "cgroup.controllers"):
        (SECOND / "cgroup.subtree_control").write_text("+io")
        group, name, text = SECOND / NAME, "io.max", f"{number} wbps={rate}"
    else:
        return None
    group.mkdir(exist_ok=True)
    try:
        (group / name).write_text(text)
    except OSError:
        group.rmdir()
        raise
    return group


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
