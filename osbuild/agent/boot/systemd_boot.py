"""Boot entries of systemd-boot: files on the ESP whose names contain the boot counter (systemd-boot(7)).

The names are `edge-GENERATION-SLOT+LEFT-DONE.efi`. systemd-boot sorts entries by name, because our entries differ in no
other field that it sorts by. It starts the highest generation among the entries that are good or have tries left; if
there is none, the highest generation of all. So every switch is one rename to the next generation. EFI variables are
not written: systemd-boot would start the entry named in LoaderEntryDefault even if it has no try left.

The ESP is mounted with `dirsync`, so Linux writes the new name of a file before it removes the old one. A power cut
during a rename leaves one of two states:
- The new name is an empty file. Boot loaders and this module ignore it.
- Both names share the same blocks. Removing one of them would free the blocks of both, so both are kept until the slot
  gets new contents. Then all names are removed together.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from osbuild.agent.boot.entry_files import remove_names
from osbuild.agent.system import System
from osbuild.shared.boot_entry import TRIES, BootEntry
from osbuild.shared.files import sync_path
from osbuild.shared.uefi_entries import choose_slot, entry_by_slot, parse_entry_name

ENTRIES = "/efi/EFI/Linux"
# EFI variable with the path of the booted entry, if that entry has a counter (systemd's Boot Loader Interface).
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class SystemdBootLoader:
    """Implements `osbuild.agent.boot.loader.BootLoader`."""

    def read_entries(self, system: System) -> list[BootEntry]:
        return [entry for _, entry in sorted(entry_by_slot(readable_entries(system)).items())]

    def booted_entry(self, system: System) -> BootEntry | None:
        return parse_entry_name(read_efi_variable(system, COUNTED).rpartition("\\")[2].rpartition("/")[2])

    def bless(self, system: System, slot: str) -> None:
        entry = entry_by_slot(list_entries(system)).get(slot)
        if entry is None:
            raise missing_boot_image(slot)
        if entry.left is not None:
            rename_entry(system, entry.file, f"edge-{entry.generation}-{slot}.efi")

    def next_slot(self, system: System) -> str | None:
        return choose_slot(readable_entries(system))

    def switch_to(self, system: System, slot: str) -> None:
        entries = list_entries(system)
        highest = max((entry.generation for entry in entries), default=0)
        current = entry_by_slot(entries).get(slot)
        # If there are both a staged file and an entry, a power cut has interrupted the switch: they share their blocks.
        if current is None and not staged_path(system, slot).is_file():
            raise missing_boot_image(slot)
        if current and choose_slot(entries) == slot and current.generation == highest and current.left in (None, TRIES):
            return
        source = current.file if current else staged_path(system, slot).name
        rename_entry(system, source, f"edge-{highest + 1}-{slot}+{TRIES}.efi")

    def reject(self, system: System, slot: str) -> None:
        slot_entries = [entry for entry in list_entries(system) if entry.slot == slot]
        staged, spare = staged_path(system, slot), staged_path(system, slot).with_suffix(".spare")
        if staged.exists() and not (slot_entries or spare.exists()):
            rename_entry(system, staged.name, spare.name)
        elif staged.exists() or len(slot_entries) > 1:
            entries = (system.path(ENTRIES) / entry.file for entry in slot_entries)
            remove_names([*entries, staged, spare], staged.with_suffix(".partial"))
        elif slot_entries and slot_entries[0].left != 0:
            rename_entry(
                system, slot_entries[0].file, f"edge-{slot_entries[0].generation}-{slot}+0-{slot_entries[0].done}.efi"
            )


def list_entries(system: System) -> list[BootEntry]:
    """All bootable entries. A slot may have several. Raises `OSError`."""
    entries = []
    with os.scandir(system.path(ENTRIES)) as files:
        for file in files:
            with suppress(FileNotFoundError):  # another process may rename the file at this moment
                if (entry := parse_entry_name(file.name)) and file.is_file() and file.stat().st_size:
                    entries.append(entry)
    return sorted(entries, key=lambda entry: entry.file)


def readable_entries(system: System) -> list[BootEntry]:
    """All bootable entries; empty if the ESP cannot be read."""
    try:
        return list_entries(system)
    except OSError:
        return []


def staged_path(system: System, slot: str) -> Path:
    """The boot image that an installation has staged. No boot loader reads this name."""
    return system.path(ENTRIES) / f"edge-{slot}.efi.staged"


def missing_boot_image(slot: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "the slot has no boot image", f"slot {slot}")


def rename_entry(system: System, old: str, new: str) -> None:
    """Rename a file on the ESP and wait until the change is on the disk. Raises `OSError`."""
    folder = system.path(ENTRIES)
    os.rename(folder / old, folder / new)  # noqa: PTH104 - rename(2) replaces an empty file left by a power cut
    sync_path(folder)


def read_efi_variable(system: System, name: str) -> str:
    """The text of an EFI variable, empty if there is none: 4 bytes of attributes, then UTF-16 (kernel, efivarfs)."""
    try:
        data = system.path(name).read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
