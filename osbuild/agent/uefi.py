"""Boot entries of systemd-boot: files on the EFI system partition, counted in their names (systemd-boot(7)).

`edge-GENERATION-SLOT+LEFT-DONE.efi`. Entries that have tries left, or were found good, come before those that have
none, and among them the highest generation is booted: systemd-boot compares names, since nothing else in our entries
differs that it sorts by. So every change of the choice is one rename to the next generation, and no EFI variable is
written: what LoaderEntryDefault names would be booted without a try left, too.

The partition is mounted with `dirsync`: Linux writes a file's new name before it removes the old one. A power cut
within a rename leaves
- the new name with a file that is empty, which no boot loader takes, nor does anything here, or
- both names for the same blocks. All is well as long as neither is removed while the other is in use, for that would
  free the blocks of both. So a second name stays until the slot gets other contents; then all its names go at once.
"""

import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from osbuild.agent.entry import Entry, remove
from osbuild.agent.system import System, flush

ENTRIES = "/efi/EFI/Linux"
TRIES = 3
# The boot loader's variables (Boot Loader Interface); the path of the entry that was booted, if it had a counter.
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
NAME = re.compile(r"edge-(?:(\d+)-)?([a-z])(?:\+(\d+)(?:-(\d+))?)?\.efi", re.IGNORECASE)


class Uefi:
    """See `osbuild.agent.boot.Flow`."""

    def entries(self, system: System) -> list[Entry]:
        return [entry for _, entry in sorted(counting(seen(system)).items())]

    def booted(self, system: System) -> Entry | None:
        return parse(variable(system, COUNTED).rpartition("\\")[2].rpartition("/")[2])

    def bless(self, system: System, slot: str) -> None:
        entry = counting(whole(system)).get(slot)
        if entry is None:
            raise nothing(slot)
        if entry.left is not None:
            rename(system, entry.file, f"edge-{entry.generation}-{slot}.efi")

    def primary(self, system: System) -> str | None:
        return choice(seen(system))

    def activate(self, system: System, slot: str) -> None:
        found = whole(system)
        highest = max((entry.generation for entry in found), default=0)
        mine = counting(found).get(slot)
        # A staged file beside an entry is what a power cut left of the switch: two names for one file.
        if mine is None and not staged(system, slot).is_file():
            raise nothing(slot)
        if mine and choice(found) == slot and mine.generation == highest and mine.left in (None, TRIES):
            return
        source = mine.file if mine else staged(system, slot).name
        rename(system, source, f"edge-{highest + 1}-{slot}+{TRIES}.efi")

    def reject(self, system: System, slot: str) -> None:
        mine = [entry for entry in whole(system) if entry.slot == slot]
        waiting, spare = staged(system, slot), staged(system, slot).with_suffix(".spare")
        if waiting.exists() and not (mine or spare.exists()):
            rename(system, waiting.name, spare.name)
        elif waiting.exists() or len(mine) > 1:
            entries = (system.path(ENTRIES) / entry.file for entry in mine)
            remove([*entries, waiting, spare], waiting.with_suffix(".partial"))
        elif mine and mine[0].left != 0:
            rename(system, mine[0].file, f"edge-{mine[0].generation}-{slot}+0-{mine[0].done}.efi")


def whole(system: System) -> list[Entry]:
    """Every entry that a boot loader can take, several of a slot among them. Raises `OSError`."""
    found = []
    with os.scandir(system.path(ENTRIES)) as files:
        for file in files:
            with suppress(FileNotFoundError):  # renamed by another process just now
                if (entry := parse(file.name)) and file.is_file() and file.stat().st_size:
                    found.append(entry)
    return sorted(found, key=lambda entry: entry.file)


def seen(system: System) -> list[Entry]:
    """The same; none where they can't be read."""
    try:
        return whole(system)
    except OSError:
        return []


def counting(entries: Iterable[Entry]) -> dict[str, Entry]:
    """For each slot the one of its entries that counts."""
    return {entry.slot: entry for entry in sorted(entries, key=precedence)}


def staged(system: System, slot: str) -> Path:
    """What an installation leaves to be switched to; no boot loader takes it."""
    return system.path(ENTRIES) / f"edge-{slot}.efi.staged"


def precedence(entry: Entry) -> tuple[int, bool, int]:
    """Sorts the entries of one slot, the one that counts last: the same generation twice is a blessing cut short."""
    return entry.generation, entry.left is None, entry.left or 0


def choice(entries: Iterable[Entry]) -> str | None:
    """The slot that systemd-boot takes: of those with a try left, else of all, the highest generation."""
    ranked = max(entries, key=lambda entry: (entry.left != 0, entry.generation, entry.slot), default=None)
    return ranked.slot if ranked else None


def nothing(slot: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "there is nothing to boot", f"slot {slot}")


def rename(system: System, old: str, new: str) -> None:
    """Give a file another name, on the disk when this returns."""
    folder = system.path(ENTRIES)
    os.rename(folder / old, folder / new)  # noqa: PTH104 - rename(2) replaces an empty file that a power cut has left
    flush(folder)


def parse(file: str) -> Entry | None:
    """An entry from its file name: `edge-4-a.efi`, `edge-4-a+3.efi`, `edge-4-a+2-1.efi`; without a number it is 0."""
    if not (found := NAME.fullmatch(file)):
        return None
    generation, slot, left, done = found.groups()
    return Entry(file, slot.lower(), None if left is None else int(left), int(done or 0), int(generation or 0))


def variable(system: System, name: str) -> str:
    """An EFI variable's text: four bytes of attributes, then UTF-16 (kernel documentation, efivarfs)."""
    try:
        data = system.path(name).read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
