"""Entries of the master boot record (UEFI specification 2.10, section 5.2.1, table 5-3)."""

import struct

ENTRIES = slice(446, 510)  # the bytes of the four entries in the first sector
ENTRY = struct.Struct("<B3sB3sII")  # status, first CHS, kind, last CHS, first sector, number of sectors
FAT32, PROTECTIVE = 0x0C, 0xEE  # kinds
BEYOND_CHS = b"\xfe\xff\xff"  # cylinder, head and sector of an offset that they can't express


def pack_entry(kind: int, first: int, sectors: int, *, first_chs: bytes = BEYOND_CHS) -> bytes:
    """Return an entry for `sectors` sectors from sector `first`."""
    return ENTRY.pack(0, first_chs, kind, BEYOND_CHS, first, sectors)


def resize_protective_entry(entries: bytes, end: int) -> bytes:
    """Return the four entries of an MBR. A protective entry, if it is the only one, is made as long as the disk."""
    unpacked = [ENTRY.unpack_from(entries, index * ENTRY.size) for index in range(4)]
    used = [index for index, entry in enumerate(unpacked) if entry[2]]
    if len(used) != 1 or unpacked[used[0]][2] != PROTECTIVE:
        return entries
    resized = bytearray(entries)
    struct.pack_into("<I", resized, used[0] * ENTRY.size + 12, min(end, 0xFFFFFFFF))
    return bytes(resized)
