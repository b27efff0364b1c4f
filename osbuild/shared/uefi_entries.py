"""Boot entries of systemd-boot by their file names: slot, tries and generation, and which of them is booted."""

import re
from collections.abc import Iterable

from osbuild.shared.boot_entry import BootEntry

TRIES = 3
ENTRY_NAME = re.compile(r"edge-(?:(\d+)-)?([a-z])(?:\+(\d+)(?:-(\d+))?)?\.efi", re.IGNORECASE)


def entry_by_slot(entries: Iterable[BootEntry]) -> dict[str, BootEntry]:
    """For each slot the one of its entries that counts."""
    return {entry.slot: entry for entry in sorted(entries, key=entry_precedence)}


def entry_precedence(entry: BootEntry) -> tuple[int, bool, int]:
    """Sorts the entries of one slot, the one that counts last: the same generation twice is a blessing cut short."""
    return entry.generation, entry.left is None, entry.left or 0


def choose_slot(entries: Iterable[BootEntry]) -> str | None:
    """The slot that systemd-boot takes: of those with a try left, else of all, the highest generation."""
    ranked = max(entries, key=lambda entry: (entry.left != 0, entry.generation, entry.slot), default=None)
    return ranked.slot if ranked else None


def parse_entry_name(file: str) -> BootEntry | None:
    """An entry from its file name: `edge-4-a.efi`, `edge-4-a+3.efi`, `edge-4-a+2-1.efi`; without a number it is 0."""
    if not (match := ENTRY_NAME.fullmatch(file)):
        return None
    generation, slot, left, done = match.groups()
    return BootEntry(file, slot.lower(), None if left is None else int(left), int(done or 0), int(generation or 0))
