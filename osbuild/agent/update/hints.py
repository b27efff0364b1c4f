"""What the machine itself remembers of a boot that ended badly: its watchdog, and the kernel's last words."""

import re

from osbuild.agent.system import System

WATCHDOGS = "/sys/class/watchdog"
CARDRESET = 0x20  # WDIOF_CARDRESET (linux/watchdog.h): the watchdog has reset the machine before this boot
# Where the firmware keeps them (kernel documentation, pstore), and where systemd-pstore.service moves them.
STORES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
LAST_WORDS = re.compile(r"(Kernel panic - not syncing.*|Unable to handle kernel .*|BUG: .*|Oops: .*)")
LIMIT = 65536  # bytes of a file that are looked at


def hints(system: System) -> list[str]:
    """Hints for people, none where there are none."""
    return [*watchdogs(system), *panics(system)]


def watchdogs(system: System) -> list[str]:
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


def panics(system: System) -> list[str]:
    """The kernel's last words, those of the last boot that left any."""
    files = [path for store in STORES for path in system.path(store).rglob("*") if "dmesg" in path.name]
    for path in sorted(files, key=lambda path: path.name, reverse=True):
        try:
            with path.open(errors="replace") as file:
                match = LAST_WORDS.search(file.read(LIMIT))
        except OSError:
            continue
        if match:
            return [f"the kernel's last words: {match[1].strip()}"]
    return []
