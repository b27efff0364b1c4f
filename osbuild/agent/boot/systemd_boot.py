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
from contextlib import suppress
from pathlib import Path

from osbuild.agent.boot.entry_files import remove_names
from osbuild.agent.system import System
from osbuild.shared.boot_entry import BootEntry
from osbuild.shared.files import sync_path
from osbuild.shared.uefi_entries import TRIES, choose_slot, entry_by_slot, parse_entry_name

ENTRIES = "/efi/EFI/Linux"
# The boot loader's variables (Boot Loader Interface); the path of the entry that was booted, if it had a counter.
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class SystemdBootLoader:
    """See `osbuild.agent.boot.loader.Flow`."""

    def read_entries(self, system: System) -> list[BootEntry]:
        return [entry for _, entry in sorted(entry_by_slot(readable_entries(system)).items())]

    def booted_entry(self, system: System) -> BootEntry | None:
        return parse_entry_name(read_efi_variable(system, COUNTED).rpartition("\\")[2].rpartition("/")[2])

    def bless(self, system: System, slot: str) -> None:
        entry = entry_by_slot(list_entries(system)).get(slot)
        if entry is None:
            raise nothing_to_boot(slot)
        if entry.left is not None:
            rename_entry(system, entry.file, f"edge-{entry.generation}-{slot}.efi")

    def next_slot(self, system: System) -> str | None:
        return choose_slot(readable_entries(system))

    def switch_to(self, system: System, slot: str) -> None:
        entries = list_entries(system)
        highest = max((entry.generation for entry in entries), default=0)
        mine = entry_by_slot(entries).get(slot)
        # A staged file beside an entry is what a power cut left of the switch: two names for one file.
        if mine is None and not staged_path(system, slot).is_file():
            raise nothing_to_boot(slot)
        if mine and choose_slot(entries) == slot and mine.generation == highest and mine.left in (None, TRIES):
            return
        source = mine.file if mine else staged_path(system, slot).name
        rename_entry(system, source, f"edge-{highest + 1}-{slot}+{TRIES}.efi")

    def reject(self, system: System, slot: str) -> None:
        mine = [entry for entry in list_entries(system) if entry.slot == slot]
        waiting, spare = staged_path(system, slot), staged_path(system, slot).with_suffix(".spare")
        if waiting.exists() and not (mine or spare.exists()):
            rename_entry(system, waiting.name, spare.name)
        elif waiting.exists() or len(mine) > 1:
            entries = (system.path(ENTRIES) / entry.file for entry in mine)
            remove_names([*entries, waiting, spare], waiting.with_suffix(".partial"))
        elif mine and mine[0].left != 0:
            rename_entry(system, mine[0].file, f"edge-{mine[0].generation}-{slot}+0-{mine[0].done}.efi")


def list_entries(system: System) -> list[BootEntry]:
    """Every entry that a boot loader can take, several of a slot among them. Raises `OSError`."""
    found = []
    with os.scandir(system.path(ENTRIES)) as files:
        for file in files:
            with suppress(FileNotFoundError):  # renamed by another process just now
                if (entry := parse_entry_name(file.name)) and file.is_file() and file.stat().st_size:
                    found.append(entry)
    return sorted(found, key=lambda entry: entry.file)


def readable_entries(system: System) -> list[BootEntry]:
    """The same; none where they can't be read."""
    try:
        return list_entries(system)
    except OSError:
        return []


def staged_path(system: System, slot: str) -> Path:
    """What an installation leaves to be switched to; no boot loader takes it."""
    return system.path(ENTRIES) / f"edge-{slot}.efi.staged"


def nothing_to_boot(slot: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "there is nothing to boot", f"slot {slot}")


def rename_entry(system: System, old: str, new: str) -> None:
    """Give a file another name, on the disk when this returns."""
    folder = system.path(ENTRIES)
    os.rename(folder / old, folder / new)  # noqa: PTH104 - rename(2) replaces an empty file that a power cut has left
    sync_path(folder)


def read_efi_variable(system: System, name: str) -> str:
    """An EFI variable's text: four bytes of attributes, then UTF-16 (kernel documentation, efivarfs)."""
    try:
        data = system.path(name).read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
