"""Writes a seed to an existing disk or disk image, with the same checks as for flashing."""

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
    """Replace /seed on the ESP of `disk` with `files`. Raises `Error`, and then changes nothing if they do not fit.

    An image becomes readable by its owner only. `wrap` returns the command line that runs mtools(1).
    """
    host = host or Host()
    flash_target = find_disk(disk, host)
    entry = find_esp(disk)
    with temporary_folder("seed") as scratch:
        copy = EspCopy(copy_file_system(disk, entry.offset, entry.size, scratch / "esp"), entry.offset)
        changes = copy.changes(files, wrap=wrap)
    size = flash_target.size or disk.stat().st_size
    with open_target(flash_target, size, private=True) as card:
        write_changes(card, changes)


def find_disk(disk: Path, host: Host) -> FlashTarget:
    """Return the device or existing image `disk`. Raises `Error` if it is in use or must not be written to."""
    flash_target = target.find_target(disk, host)
    if not flash_target.exists:
        raise Error("this image does not exist", where=str(disk), hint=DISK_HINT)
    target.check_target(flash_target, None, host)
    return flash_target


def copy_file_system(disk: Path, offset: int, size: int, copy: Path) -> Path:
    """Copy the used blocks of the FAT file system at `offset` in `disk` to the file `copy`. Raises `Error`."""
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
        message = f"cannot copy the ESP: {error.strerror}"
        raise Error(message, where=where, hint=f"check the free space in {copy.parent}") from error
    return copy


def write_changes(card: OpenTarget, changes: Mapping[int, bytes]) -> None:
    """Write `changes`, sectors by offset, and verify them. Raises `Error`."""
    blocks: dict[int, dict[int, bytes]] = {}
    for offset, data in changes.items():
        blocks.setdefault(offset // SECTOR * SECTOR, {})[offset % SECTOR] = data
    changed_blocks: dict[int, bytes] = {}
    for start, parts in blocks.items():
        block = bytearray(card.read_small(start, min(SECTOR, card.size - start)))
        for offset, data in parts.items():
            block[offset : offset + len(data)] = data
        changed_blocks[start] = bytes(block)
    # From the end to the beginning: files before the allocation table, so that an interrupted write leaves no complete
    # seed.
    for start in sorted(changed_blocks, reverse=True):
        card.write_small(start, changed_blocks[start])
    card.flush()
    if any(card.read_small(start, len(block)) != block for start, block in changed_blocks.items()):
        where = str(card.target.path)
        raise Error("the disk does not store what is written to it", where=where, hint="use another disk")
