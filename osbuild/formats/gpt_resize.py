"""Moves the end of a GPT to the end of a larger disk (UEFI specification 2.10, section 5.3).

The partitions stay as they are. So does an MBR that has more than the one protective entry: a Raspberry Pi's firmware
reads such a hybrid one.
"""

import struct
import zlib
from dataclasses import dataclass

from osbuild.formats.gpt import HEADER, Table
from osbuild.shared.errors import Error

MBR_ENTRY = struct.Struct("<B3sB3sII")  # section 5.2.1, table 5-3


@dataclass(frozen=True)
class ResizedTable:
    """`head` is the disk's beginning with its new table, `backup` goes to `offset`, in bytes."""

    head: bytes
    offset: int
    backup: bytes


def resize_table(head: bytes, table: Table, size: int) -> ResizedTable | None:
    """The table in `head`, the image's beginning, made for a disk of `size` bytes; None where it fits as it is."""
    sector = table.sector
    end = size // sector - 1
    header = bytearray(head[sector : 2 * sector])
    (_, _, length, _, _, _, other, first, _, _, entries_lba, count, step, _) = HEADER.unpack_from(header)
    if other == end:
        return None
    if other > end:
        raise Error(f"a disk of {size} bytes is smaller than its partition table says", hint="take a larger one")
    blocks = -(-count * step // sector)
    entries = head[entries_lba * sector : (entries_lba + blocks) * sector]
    last = end - blocks - 1
    struct.pack_into("<QQQQ", header, 24, 1, end, first, last)
    backup = bytearray(header)
    struct.pack_into("<QQ", backup, 24, end, 1)
    struct.pack_into("<Q", backup, 72, end - blocks)
    for each in (header, backup):
        each[16:20] = bytes(4)
        each[16:20] = zlib.crc32(each[:length]).to_bytes(4, "little")
    made = bytearray(head)
    made[sector : 2 * sector] = header
    made[446:510] = resize_protective_mbr(head[446:510], end)
    return ResizedTable(bytes(made), (end - blocks) * sector, entries + bytes(backup))


def resize_protective_mbr(entries: bytes, end: int) -> bytes:
    """The four entries of an MBR, a lone protective one made as long as the disk."""
    unpacked = [MBR_ENTRY.unpack_from(entries, index * MBR_ENTRY.size) for index in range(4)]
    used = [index for index, entry in enumerate(unpacked) if entry[2]]
    if len(used) != 1 or unpacked[used[0]][2] != 0xEE:
        return entries
    made = bytearray(entries)
    struct.pack_into("<I", made, used[0] * MBR_ENTRY.size + 12, min(end, 0xFFFFFFFF))
    return bytes(made)
