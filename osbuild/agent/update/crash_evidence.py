"""Traces of a crashed boot: resets by a watchdog, and panics that the firmware has stored."""

import re
from datetime import datetime
from pathlib import Path

from osbuild.agent.system import System

WATCHDOGS = "/sys/class/watchdog"
CARDRESET = 0x20  # WDIOF_CARDRESET (linux/watchdog.h): the watchdog reset the device before this boot
# Where the firmware stores panics (kernel documentation, pstore), and where systemd-pstore.service archives them.
STORE, ARCHIVE = "/sys/fs/pstore", "/var/lib/systemd/pstore"
PANIC = re.compile(r"(Kernel panic - not syncing.*|Unable to handle kernel .*|BUG: .*|Oops: .*)")
LIMIT = 65536  # bytes of a file that are searched


def crash_hints(system: System, since: str = "") -> list[str]:
    """One line per trace. Archived panics older than `since` (ISO 8601) belong to another update and are left out."""
    return [*watchdog_resets(system), *last_panic(system, since)]


def watchdog_resets(system: System) -> list[str]:
    """One line per watchdog that reset the device."""
    lines = []
    for path in sorted(system.path(WATCHDOGS).glob("*/bootstatus")):
        try:
            status = int(path.read_text(), 0)
        except (OSError, ValueError):
            continue
        if status & CARDRESET:
            lines.append(f"the watchdog {path.parent.name} has reset the device")
    return lines


def last_panic(system: System, since: str) -> list[str]:
    """The message of the newest panic, as a list of at most one line."""
    begin = parse_time(since)
    files = [(at, path) for path in system.path(STORE).rglob("*dmesg*") if (at := modified_time(path))]
    files += [(at, path) for path in system.path(ARCHIVE).rglob("*dmesg*") if (at := modified_time(path)) > begin]
    for _, path in sorted(files, reverse=True):
        try:
            with path.open(errors="replace") as file:
                match = PANIC.search(file.read(LIMIT))
        except OSError:
            continue
        if match:
            return [f"the kernel's last message: {match[1].strip()}"]
    return []


def modified_time(path: Path) -> float:
    """The modification time of a file in seconds since 1970; 0 if it cannot be read."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def parse_time(text: str) -> float:
    """A time in ISO 8601 as seconds since 1970; 0 if it is not a time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
