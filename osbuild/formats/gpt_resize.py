"""Moves the backup of a GPT to the end of a larger disk (UEFI specification 2.10, section 5.3).

The partitions do not change. A hybrid MBR, which has more entries than the protective one, does not change either:
Raspberry Pi firmware reads it.
"""

import struct
import zlib
from dataclasses import dataclass

from osbuild.formats import mbr
from osbuild.formats.gpt import HEADER, Table
from osbuild.shared.errors import Error


@dataclass(frozen=True)
class ResizedTable:
    """`head` is the beginning of the disk with the new table. `backup` belongs at `offset`, in bytes."""

    head: bytes
    offset: int
    backup: bytes


def resize_table(head: bytes, table: Table, size: int) -> ResizedTable | None:
    """Adapt the table in `head`, the beginning of an image, to a disk of `size` bytes; None if it already fits.

    Raises `Error` if the disk is smaller than the table's.
    """
    sector = table.sector
    end = size // sector - 1
    header = bytearray(head[sector : 2 * sector])
    (_, _, length, _, _, _, backup_lba, first, _, _, entries_lba, count, step, _) = HEADER.unpack_from(header)
    if backup_lba == end:
        return None
    if backup_lba > end:
        raise Error(
            f"a disk of {size} bytes is smaller than the disk that its partition table describes",
            hint="use a larger disk",
        )
    blocks = -(-count * step // sector)
    entries = head[entries_lba * sector : (entries_lba + blocks) * sector]
    last = end - blocks - 1
    struct.pack_into("<QQQQ", header, 24, 1, end, first, last)
    backup = bytearray(header)
    struct.pack_into("<QQ", backup, 24, end, 1)
    struct.pack_into("<Q", backup, 72, end - blocks)
    for table_header in (header, backup):
        table_header[16:20] = bytes(4)
        table_header[16:20] = zlib.crc32(table_header[:length]).to_bytes(4, "little")
    new_head = bytearray(head)
    new_head[sector : 2 * sector] = header
    new_head[mbr.ENTRIES] = mbr.resize_protective_entry(head[mbr.ENTRIES], end)
    return ResizedTable(bytes(new_head), (end - blocks) * sector, entries + bytes(backup))
