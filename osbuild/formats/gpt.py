"""Reads a GUID Partition Table (UEFI specification 2.10, section 5.3). Both copies must be valid.

Partition types are those of the Discoverable Partitions Specification (UAPI group).
"""

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

AGAIN = "copy or decompress the image again; write a disk again with `edge-osbuild flash`"
SIGNATURE = b"EFI PART"
SECTORS = (512, 4096)  # bytes
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")  # table 5-5
ENTRY = struct.Struct("<16s16sQQQ72s")  # table 5-6
MOST_ENTRIES = 2**20  # bytes; Linux accepts no larger array either

ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
XBOOTLDR = UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172")
LINUX_GENERIC = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
VAR = UUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d")
HOME = UUID("933ac7e1-2eb4-4f13-b844-0e14e2aef915")
SRV = UUID("3b8f8425-20e0-4f3b-907f-1a25a76f98e8")
SWAP = UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")
UBOOT_ENV = UUID("3de21764-95bd-54bd-a5c3-4abe786f38a8")  # U-Boot's part_efi.h

ROOT = {
    Architecture.x86_64: UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    Architecture.arm64: UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
    Architecture.armv7: UUID("69dad710-2ce4-4e3c-b16c-21a1d49abed3"),
}
ROOT_VERITY = {
    Architecture.x86_64: UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    Architecture.arm64: UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
    Architecture.armv7: UUID("7386cdf2-203c-47a9-a498-f2ecce45a2d6"),
}
ROOT_VERITY_SIG = {
    Architecture.x86_64: UUID("41092b05-9fc8-4523-994f-2def0408b176"),
    Architecture.arm64: UUID("6db69de6-29f4-4758-a7a5-962190f00ce3"),
    Architecture.armv7: UUID("42b0455f-eb11-491d-98d3-56145ba9d037"),
}
TYPES = {
    ESP: "EFI system",
    XBOOTLDR: "extended boot loader",
    LINUX_GENERIC: "Linux data",
    VAR: "/var",
    HOME: "/home",
    SRV: "/srv",
    SWAP: "swap",
    UBOOT_ENV: "U-Boot environment",
    **{uuid: f"root {arch}" for arch, uuid in ROOT.items()},
    **{uuid: f"root {arch} verity" for arch, uuid in ROOT_VERITY.items()},
    **{uuid: f"root {arch} verity signature" for arch, uuid in ROOT_VERITY_SIG.items()},
}


@dataclass(frozen=True)
class Partition:
    """One entry; `number` counts from 1, `offset` and `size` are in bytes, `last_lba` belongs to the partition."""

    number: int
    name: str
    type: UUID
    uuid: UUID
    first_lba: int
    last_lba: int
    offset: int
    size: int
    attributes: int

    @property
    def kind(self) -> str:
        """The name of the type, or its UUID if unknown."""
        return TYPES.get(self.type, str(self.type))


@dataclass(frozen=True)
class Table:
    """A valid table. `sector` is the size of a sector, `size` that of the whole image, both in bytes."""

    uuid: UUID
    sector: int
    size: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class _Header:
    lba: int
    other: int
    first: int
    last: int
    uuid: UUID
    entries_lba: int
    count: int
    step: int
    crc: int


def read_table(image: Path) -> Table:
    """Read and check the table of a disk image or block device.

    Raises `Error` if there is no table, if either copy is damaged or missing, if the copies differ, or if the image is
    shorter than its table says.
    """
    try:
        with image.open("rb") as file:
            return read_table_from(file, str(image))
    except OSError as error:
        raise Error(f"cannot read the partition table: {error.strerror}", where=str(image), hint=AGAIN) from error


def read_table_beginning(data: bytes, where: str) -> Table | None:
    """Parse the table in the first MiB of a disk, without its backup; None if there is no GPT.

    `size` of the result is the size of the disk that the table was written for. Raises `Error` if it is damaged.
    """
    file = io.BytesIO(data)
    if not any(_at(file, sector, 8) == SIGNATURE for sector in SECTORS):
        return None
    sector, header, entries = _primary(file, where)
    return _table(sector, (header.other + 1) * sector, header, entries, where)


def read_table_from(file: BinaryIO, where: str) -> Table:
    """Like `read_table`, for an open file. `where` is the path shown in errors."""
    size = file.seek(0, os.SEEK_END)
    sector, primary, entries = _primary(file, where)
    if (needed := (primary.other + 1) * sector) > size:
        raise Error(
            f"the image is truncated: it has {size} bytes, and its partition table describes {needed}",
            where=where,
            hint=AGAIN,
        )
    backup = _header(file, sector, primary.other, "the backup table", where)
    same = ("first", "last", "uuid", "count", "step", "crc")
    if backup.other != 1 or any(getattr(primary, name) != getattr(backup, name) for name in same):
        raise Error("the partition table and its backup differ", where=where, hint=AGAIN)
    _entries(file, sector, backup, "the backup table", where)
    return _table(sector, size, primary, entries, where)


def _primary(file: BinaryIO, where: str) -> tuple[int, _Header, bytes]:
    """Return the bytes of a sector, the header, and the array of entries."""
    sector = next((size for size in SECTORS if _at(file, size, 8) == SIGNATURE), None)
    boot = _at(file, 0, 512)
    if sector is None or boot[510:] != b"\x55\xaa" or 0xEE not in boot[450:514:16]:
        raise Error(
            "no GUID partition table" + ("" if sector is None else ": the protective MBR is missing"),
            where=where,
            hint="is this a disk image? `edge-osbuild build` writes one as disk.img",
        )
    header = _header(file, sector, 1, "the table", where)
    if header.other <= header.last or header.last < header.first:
        raise Error(
            "the partition table contradicts itself: the backup or the range for partitions is misplaced",
            where=where,
            hint=AGAIN,
        )
    return sector, header, _entries(file, sector, header, "the table", where)


def _table(sector: int, size: int, header: _Header, entries: bytes, where: str) -> Table:
    partitions = []
    for index in range(header.count):
        kind, uuid, first, last, attributes, name = ENTRY.unpack_from(entries, index * header.step)
        if any(kind):
            text = name.decode("utf-16-le", "replace").partition("\0")[0]
            partitions.append(
                Partition(
                    number=index + 1,
                    name=text,
                    type=UUID(bytes_le=kind),
                    uuid=UUID(bytes_le=uuid),
                    first_lba=first,
                    last_lba=last,
                    offset=first * sector,
                    size=(last - first + 1) * sector,
                    attributes=attributes,
                )
            )
    _check_positions(partitions, header, where)
    return Table(uuid=header.uuid, sector=sector, size=size, partitions=tuple(partitions))


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset`, fewer at the end of the image."""
    if offset >= 2**63:
        return b""
    file.seek(offset)
    return file.read(size)


def find_esp(table: Table | None, where: str, hint: str, purpose: str = "") -> Partition:
    """Return the ESP of a disk. Raises `Error` if there is not exactly one, or no table."""
    partitions = [partition for partition in table.partitions if partition.type == ESP] if table else []
    if len(partitions) != 1:
        raise Error(f"{len(partitions)} EFI system partitions, expected one{purpose}", where=where, hint=hint)
    return partitions[0]


def _header(file: BinaryIO, sector: int, lba: int, what: str, where: str) -> _Header:
    block = _at(file, lba * sector, sector)
    if len(block) < sector or not block.startswith(SIGNATURE):
        raise Error(f"{what} is missing from sector {lba}", where=where, hint=AGAIN)
    (_, revision, length, crc, _, own, other, first, last, uuid, entries_lba, count, step, entries_crc) = (
        HEADER.unpack_from(block)
    )
    if not HEADER.size <= length <= sector:
        raise Error(f"{what} has a header of {length} bytes", where=where, hint=AGAIN)
    if zlib.crc32(block[:16] + bytes(4) + block[20:length]) != crc:
        raise Error(f"the checksum of {what} is wrong", where=where, hint=AGAIN)
    if revision != 0x10000 or own != lba:
        raise Error(f"{what} is not one of revision 1.0 at sector {lba}", where=where, hint=AGAIN)
    if step < ENTRY.size or step % ENTRY.size or (step // ENTRY.size).bit_count() != 1 or count * step > MOST_ENTRIES:
        raise Error(f"{what} has {count} entries of {step} bytes", where=where, hint=AGAIN)
    return _Header(own, other, first, last, UUID(bytes_le=uuid), entries_lba, count, step, entries_crc)


def _entries(file: BinaryIO, sector: int, header: _Header, what: str, where: str) -> bytes:
    length = header.count * header.step
    start, end = header.entries_lba, header.entries_lba + -(-length // sector) - 1
    if start <= 1 or (start <= header.last and end >= header.first):
        raise Error(f"the entries of {what} overlap something else", where=where, hint=AGAIN)
    entries = _at(file, start * sector, length)
    if len(entries) < length or zlib.crc32(entries) != header.crc:
        raise Error(f"the checksum of the entries of {what} is wrong", where=where, hint=AGAIN)
    return entries


def _check_positions(partitions: list[Partition], header: _Header, where: str) -> None:
    previous: Partition | None = None
    for partition in sorted(partitions, key=lambda partition: partition.first_lba):
        label = f"partition {partition.number} ({partition.name})"
        if not header.first <= partition.first_lba <= partition.last_lba <= header.last:
            raise Error(f"{label} is not within the disk", where=where, hint=AGAIN)
        if previous is not None and partition.first_lba <= previous.last_lba:
            raise Error(f"{label} overlaps partition {previous.number} ({previous.name})", where=where, hint=AGAIN)
        previous = partition
    if len({partition.uuid for partition in partitions}) < len(partitions):
        raise Error("two partitions have the same UUID", where=where, hint=AGAIN)
