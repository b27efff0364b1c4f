"""What compressed files say of their contents before they are unpacked: whether they are whole, and how large."""

import os
import struct
from typing import BinaryIO

from osbuild.shared.errors import Error

ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
SKIPPABLE = 0x184D2A50  # section 3.1.2; the low four bits are free
XZ = b"\xfd7zXZ\0"  # "The .xz File Format", version 1.2.0, section 2.1.1.1


def zstd_size(file: BinaryIO, where: str) -> int | None:
    """Bytes that a Zstandard file unpacks to, None if it does not say. Raises `Error` if it ends in a frame's middle.

    The decoder takes a file that was cut between two blocks for a whole one, so every block is walked over here.
    """
    end = file.seek(0, os.SEEK_END)
    place, total = 0, 0
    known = True

    def skip(count: int) -> None:
        nonlocal place
        place += count
        if place > end:
            raise Error("the compressed image ends too early", where=where, hint="copy or download it again")

    def take(count: int) -> bytes:
        file.seek(place)
        skip(count)
        return file.read(count)

    while place < end:
        (magic,) = struct.unpack("<I", take(4))
        if magic & ~0xF == SKIPPABLE:
            (size,) = struct.unpack("<I", take(4))
            skip(size)
            continue
        if magic != int.from_bytes(ZSTD, "little"):
            raise Error("the compressed image has something else at its end", where=where, hint="download it again")
        (descriptor,) = take(1)
        single = descriptor & 0x20
        skip((0 if single else 1) + (0, 1, 2, 4)[descriptor & 3])
        field = take((1 if single else 0, 2, 4, 8)[descriptor >> 6])
        known = known and bool(field)
        total += int.from_bytes(field, "little") + (256 if len(field) == 2 else 0)
        last = False
        while not last:
            block = int.from_bytes(take(3), "little")
            last = bool(block & 1)
            skip(1 if block >> 1 & 3 == 1 else block >> 3)  # a run of one byte is stored as that byte
        skip(4 if descriptor & 4 else 0)
    return total if known else None


def xz_size(file: BinaryIO, where: str) -> int | None:
    """Bytes that an .xz file of one stream unpacks to, by its index (section 4); None if it cannot be told."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 12))
    footer = file.read(12)
    if len(footer) < 12 or footer[10:] != b"YZ":
        return None  # padding after the stream, or the file was cut, which the decoder finds
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if length > min(end, 2**24):
        return None
    file.seek(end - 12 - length)
    index = file.read(length)
    place = 1

    def number() -> int:
        """Seven bits a byte, the lowest first (section 1.2)."""
        nonlocal place
        value = shift = 0
        while True:
            byte = index[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
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
    return total if packed + length + 24 == end else None  # else another stream comes before this one
