"""Puts a seed on a disk or image that was written before, with the checks that every write to a disk has."""

from collections.abc import Mapping
from pathlib import Path

from osbuild.flash import target
from osbuild.flash.block_device import Host
from osbuild.flash.open_target import SECTOR, OpenTarget, open_target
from osbuild.flash.seed_patch import EspCopy
from osbuild.flash.target import FlashTarget
from osbuild.formats.fat import Fat
from osbuild.host.scratch import temporary_folder
from osbuild.seed.esp_seed import DISK_HINT, Wrap, find_esp
from osbuild.shared.errors import Error


def insert_seed(files: Mapping[str, bytes], disk: Path, *, wrap: Wrap, host: Host | None = None) -> None:
    """Write `files` to /seed of the EFI system partition of `disk`, replacing what is there.

    The change is prepared in a copy of that partition, so nothing is written if it doesn't fit. An image becomes
    readable by its owner only. `wrap` makes the command line that runs mtools(1). Raises `Error`.
    """
    host = host or Host()
    found = find_disk(disk, host)
    entry = find_esp(disk)
    with temporary_folder("seed") as scratch:
        copy = EspCopy(copy_file_system(disk, entry.offset, entry.size, scratch / "esp"), entry.offset)
        changes = copy.changes(files, wrap=wrap)
    size = found.size or disk.stat().st_size
    with open_target(found, size, private=True) as card:
        write_changes(card, changes)


def find_disk(disk: Path, host: Host) -> FlashTarget:
    """The device or existing image `disk`. Raises `Error` where it is in use, or may not be written to."""
    found = target.find_target(disk, host)
    if not found.exists:
        raise Error("there is no such image", where=str(disk), hint=DISK_HINT)
    target.check_target(found, None, host)
    return found


def copy_file_system(disk: Path, offset: int, size: int, copy: Path) -> Path:
    """Copy what is in use of the FAT file system at `offset` of `disk` to the file `copy`. Raises `Error`."""
    where = str(disk)
    try:
        with disk.open("rb") as file, copy.open("wb") as output:
            for start, length in Fat(file, offset, where).used():
                if start + length > size:
                    raise Error("the FAT file system is larger than its partition", where=where, hint=DISK_HINT)
                file.seek(offset + start)
                output.seek(start)
                output.write(file.read(length))
            output.truncate(size)
    except OSError as error:
        message = f"cannot copy the boot partition: {error.strerror}"
        raise Error(message, where=where, hint=f"is there room in {copy.parent}?") from error
    return copy


def write_changes(card: OpenTarget, changes: Mapping[int, bytes]) -> None:
    """Write `changes`, sectors by offset, and read them back. Raises `Error`.

    The end comes first: files before the allocation table, so that an interrupted write is no complete seed.
    """
    blocks: dict[int, dict[int, bytes]] = {}
    for offset, data in changes.items():
        blocks.setdefault(offset // SECTOR * SECTOR, {})[offset % SECTOR] = data
    wanted: dict[int, bytes] = {}
    for start, parts in blocks.items():
        block = bytearray(card.read_small(start, min(SECTOR, card.size - start)))
        for offset, data in parts.items():
            block[offset : offset + len(data)] = data
        wanted[start] = bytes(block)
    for start in sorted(wanted, reverse=True):
        card.write_small(start, wanted[start])
    card.flush()
    if any(card.read_small(start, len(block)) != block for start, block in wanted.items()):
        where = str(card.target.path)
        raise Error("what was written to it was lost", where=where, hint="the disk is failing: use another one")
