"""Media that carry a seed: block devices with a file system labelled CIDATA."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.system import System

LABEL = "CIDATA"  # or in lower case
OPENSTACK = "CONFIG-2"  # label of a config drive, which has another format
MOUNT = "/run/edge-osbuild/medium"
WAIT = 5.0  # seconds for a medium to appear after udev has loaded the drivers; a USB stick takes two or three
TIMEOUT = 60.0  # seconds for a medium that answers slowly or not at all


def find_media(system: System, label: str = LABEL) -> list[Path]:
    """Block devices with the label of a seed. They are probed directly, because udev may not have probed them yet."""
    names = sorted(path.name for path in system.path("/sys/class/block").glob("*"))
    devices = [system.path(f"/dev/{name}") for name in names if not name.startswith(("loop", "ram", "dm-", "zram"))]
    return [device for device in devices if device.exists() and read_label(device).upper() == label]


def read_label(device: Path) -> str:
    """The label of an ISO 9660 or FAT file system; empty if there is none."""
    # blkid(8) knows both labels of FAT: in the root directory, where Windows writes it, and in the boot sector.
    command: list[str | Path] = [
        "blkid", "--probe", "--match-types", "vfat,iso9660", "--output", "export", "--match-tag", "LABEL",
        "--match-tag", "LABEL_FATBOOT", device,
    ]  # fmt: skip
    try:
        result = run_command(command, timeout=TIMEOUT, errors="replace")
    except CommandNotFinished:
        return ""
    tags = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    return tags.get("LABEL") or tags.get("LABEL_FATBOOT") or ""


def wait_for_media(system: System, seconds: float) -> list[Path]:
    """Find media. If there is none, wait for udev to handle all devices, and then up to `seconds`."""
    if (paths := find_media(system)) or seconds <= 0:
        return paths
    subprocess.run(["udevadm", "settle", "--timeout=30"], check=False)
    end = time.monotonic() + seconds
    while not (paths := find_media(system)) and time.monotonic() < end:
        time.sleep(0.2)
    return paths


@contextmanager
def mounted(system: System, device: Path) -> Iterator[Path]:
    """Mount a medium or an image file read-only for the duration of the block.

    Raises `subprocess.SubprocessError` or `OSError`.
    """
    folder = system.path(MOUNT)
    folder.mkdir(parents=True, exist_ok=True)
    options = "ro,nosuid,nodev,noexec" + (",loop" if device.is_file() else "")
    command: list[str | Path] = ["mount", "-o", options, device, folder]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
