"""Checks a compressed file before it is unpacked: whether it is complete, and how large its contents are."""

import os
import struct
from typing import BinaryIO

from osbuild.shared.errors import Error

ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
SKIPPABLE = 0x184D2A50  # section 3.1.2; the low four bits are free
GZIP = b"\x1f\x8b"  # RFC 1952, section 2.3.1
XZ = b"\xfd7zXZ\0"  # "The .xz File Format", version 1.2.0, section 2.1.1.1


def zstd_size(file: BinaryIO, where: str) -> int | None:
    """Return the unpacked size of a Zstandard file in bytes, None if a frame does not store it (RFC 8878).

    Raises `Error` if the file ends within a frame. `where` is the path shown in errors.
    """
    # The decoder accepts a file that was cut between two blocks, so this walks over every block header.
    end = file.seek(0, os.SEEK_END)
    offset, total = 0, 0
    size_known = True

    def skip(count: int) -> None:
        nonlocal offset
        offset += count
        if offset > end:
            raise Error("the compressed image is truncated", where=where, hint="copy or download it again")

    def take(count: int) -> bytes:
        file.seek(offset)
        skip(count)
        return file.read(count)

    while offset < end:
        (magic,) = struct.unpack("<I", take(4))
        if magic & ~0xF == SKIPPABLE:
            (size,) = struct.unpack("<I", take(4))
            skip(size)
            continue
        if magic != int.from_bytes(ZSTD, "little"):
            raise Error("the compressed image is followed by other data", where=where, hint="download it again")
        (descriptor,) = take(1)
        single = descriptor & 0x20
        skip((0 if single else 1) + (0, 1, 2, 4)[descriptor & 3])
        field = take((1 if single else 0, 2, 4, 8)[descriptor >> 6])
        size_known = size_known and bool(field)
        total += int.from_bytes(field, "little") + (256 if len(field) == 2 else 0)
        last = False
        while not last:
            block = int.from_bytes(take(3), "little")
            last = bool(block & 1)
            skip(1 if block >> 1 & 3 == 1 else block >> 3)  # a run of one byte is stored as that byte
        skip(4 if descriptor & 4 else 0)
    return total if size_known else None


def xz_size(file: BinaryIO, where: str) -> int | None:
    """Return the unpacked size in bytes of an .xz file of one stream, from its index (section 4); None if unknown."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 12))
    footer = file.read(12)
    if len(footer) < 12 or footer[10:] != b"YZ":
        return None  # padding after the stream, or a truncated file, which the decoder detects
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if length > min(end, 2**24):
        return None
    file.seek(end - 12 - length)
    index = file.read(length)
    offset = 1

    def number() -> int:
        """Read a multibyte integer: seven bits per byte, the lowest first (section 1.2)."""
        nonlocal offset
        value = shift = 0
        while True:
            byte = index[offset]
            value |= (byte & 0x7F) << shift
            offset, shift = offset + 1, shift + 7
            if not byte & 0x80:
                return value

    packed, total = 0, 0
    try:
        if index[0] != 0:
            return None
        for _ in range(number()):
            packed += -(-number() // 4) * 4
            total += number()
    except IndexError:
        return None
    return total if packed + length + 24 == end else None  # otherwise another stream precedes this one
