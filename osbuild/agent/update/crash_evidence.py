"""What the machine itself remembers of a boot that ended badly: its watchdog, and the kernel's last words."""

import re
from datetime import datetime
from pathlib import Path

from osbuild.agent.system import System

WATCHDOGS = "/sys/class/watchdog"
CARDRESET = 0x20  # WDIOF_CARDRESET (linux/watchdog.h): the watchdog has reset the machine before this boot
# Where the firmware keeps them (kernel documentation, pstore), and where systemd-pstore.service moves them: for good.
STORE, ARCHIVE = "/sys/fs/pstore", "/var/lib/systemd/pstore"
LAST_WORDS = re.compile(r"(Kernel panic - not syncing.*|Unable to handle kernel .*|BUG: .*|Oops: .*)")
LIMIT = 65536  # bytes of a file that are looked at


def crash_hints(system: System, since: str = "") -> list[str]:
    """Hints for people, none where there are none. What is older than `since`, ISO 8601, is of another update."""
    return [*watchdog_resets(system), *last_panic(system, since)]


def watchdog_resets(system: System) -> list[str]:
    """Watchdogs that have reset the machine."""
    found = []
    for path in sorted(system.path(WATCHDOGS).glob("*/bootstatus")):
        try:
            status = int(path.read_text(), 0)
        except (OSError, ValueError):
            continue
        if status & CARDRESET:
            found.append(f"the watchdog {path.parent.name} has reset the machine")
    return found


def last_panic(system: System, since: str) -> list[str]:
    """The kernel's last words, those of the last boot that left any."""
    begin = parse_time(since)
    files = [(at, path) for path in system.path(STORE).rglob("*dmesg*") if (at := modified_time(path))]
    files += [(at, path) for path in system.path(ARCHIVE).rglob("*dmesg*") if (at := modified_time(path)) > begin]
    for _, path in sorted(files, reverse=True):
        try:
            with path.open(errors="replace") as file:
                match = LAST_WORDS.search(file.read(LIMIT))
        except OSError:
            continue
        if match:
            return [f"the kernel's last words: {match[1].strip()}"]
    return []


def modified_time(path: Path) -> float:
    """When a file was written, in seconds since 1970; 0 where that can't be read."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def parse_time(text: str) -> float:
    """The same for a time as it is written down, 0 for none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
