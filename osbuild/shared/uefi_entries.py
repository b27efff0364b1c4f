"""File names of the boot entries of systemd-boot: slot, tries and generation, and which entry is booted."""

import re
from collections.abc import Iterable

from osbuild.shared.boot_entry import BootEntry

ENTRY_NAME = re.compile(r"edge-(?:(\d+)-)?([a-z])(?:\+(\d+)(?:-(\d+))?)?\.efi", re.IGNORECASE)


def entry_by_slot(entries: Iterable[BootEntry]) -> dict[str, BootEntry]:
    """Slot -> the entry in effect. A slot may have several entries after a power cut."""
    return {entry.slot: entry for entry in sorted(entries, key=entry_precedence)}


def entry_precedence(entry: BootEntry) -> tuple[int, bool, int]:
    """Sort key for the entries of one slot; the last one is in effect.

    Two entries of the same generation are the result of a power cut while the slot was marked as good.
    """
    return entry.generation, entry.left is None, entry.left or 0


def choose_slot(entries: Iterable[BootEntry]) -> str | None:
    """The slot that systemd-boot starts: the highest generation of those with a try left, or else of all."""
    ranked = max(entries, key=lambda entry: (entry.left != 0, entry.generation, entry.slot), default=None)
    return ranked.slot if ranked else None


def parse_entry_name(file: str) -> BootEntry | None:
    """Parse a file name: `edge-4-a.efi`, `edge-4-a+3.efi` or `edge-4-a+2-1.efi`. Without a generation it is 0."""
    if not (match := ENTRY_NAME.fullmatch(file)):
        return None
    generation, slot, left, done = match.groups()
    return BootEntry(file, slot.lower(), None if left is None else int(left), int(done or 0), int(generation or 0))
