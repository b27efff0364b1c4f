"""The byte ranges of the parts of a bundle, to count the downloaded bytes of each part.

A bundle is a squashfs, a dm-verity hash tree over it, a signature, and the signature's size (RAUC's manual, "Bundle
Formats"). Squashfs is read as its format is described in the kernel's Documentation/filesystems/squashfs.rst and
fs/squashfs/squashfs_fs.h, but only what our bundles use: one folder, zstd, no fragments.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from osbuild.shared.errors import Error

MAGIC, ZSTD, BLOCK = b"hsqs", 6, 4096
PLAIN = 1 << 15  # flag in the header of a metadata block: not compressed
SIZE = (1 << 24) - 1  # mask for the size on disk in a data block's entry
TABLES, TREE, SIGNATURE = "squashfs's own tables", "hash tree", "signature"


@dataclass(frozen=True)
class BundleRange:
    """Bytes `begin` to `end` of a bundle."""

    name: str
    begin: int
    end: int


def bundle_ranges(bundle: Path) -> list[BundleRange]:
    """Return all parts of a bundle, in their order. Raises `Error` if the file is not a bundle that we make."""
    try:
        with bundle.open("rb") as file:
            return list(_parts(file, bundle.stat().st_size))
    except (struct.error, ValueError, KeyError, zstandard.ZstdError) as error:
        raise Error(f"this is no bundle that can be read: {error}", where=str(bundle)) from error


def count_bytes(ranges: Iterable[tuple[int, int]], parts: Sequence[BundleRange]) -> Counter[str]:
    """Count the bytes of each part in `ranges` (first byte, number of bytes). Repeated bytes count each time."""
    counts: Counter[str] = Counter()
    for first, count in ranges:
        for part in parts:
            if (overlap := min(first + count, part.end) - max(first, part.begin)) > 0:
                counts[part.name] += overlap
    return counts


def _parts(file: BinaryIO, size: int) -> Iterator[BundleRange]:
    head = file.read(96)
    (used,) = struct.unpack_from("<Q", head, 40)
    inodes, folders, fragments = struct.unpack_from("<3Q", head, 64)
    if head[:4] != MAGIC or struct.unpack_from("<H", head, 20)[0] != ZSTD:
        raise ValueError("it begins with no squashfs that is compressed by zstd")
    names = dict(_names(_table(file, folders, fragments)))
    for number, begin, end in sorted(_files(_table(file, inodes, folders)), key=lambda found: found[1]):
        yield BundleRange(names[number], begin, end)
    file.seek(size - 8)
    (signed,) = struct.unpack(">Q", file.read(8))
    tree = -(-used // BLOCK) * BLOCK
    yield BundleRange(TABLES, inodes, tree)
    yield BundleRange(TREE, tree, size - 8 - signed)
    yield BundleRange(SIGNATURE, size - 8 - signed, size)


def _table(file: BinaryIO, begin: int, end: int) -> bytes:
    """Return the contents of the metadata blocks from `begin` to `end`, joined."""
    file.seek(begin)
    data, out, offset = file.read(end - begin), bytearray(), 0
    while offset < len(data):
        (word,) = struct.unpack_from("<H", data, offset)
        block = data[offset + 2 : offset + 2 + (word & ~PLAIN)]
        out += block if word & PLAIN else zstandard.ZstdDecompressor().decompress(block, max_output_size=8192)
        offset += 2 + len(block)
        if not block:
            break
    return bytes(out)


def _files(table: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the inode number of each file, and the offsets of the begin and end of its data."""
    offset = 0
    while offset + 16 <= len(table):
        kind, _, _, _, _, number = struct.unpack_from("<4H2I", table, offset)
        offset += 16
        if kind == 1:  # a folder
            offset += 16
            continue
        if kind == 3:  # a link
            offset += 8 + struct.unpack_from("<I", table, offset + 4)[0]
            continue
        if kind == 2:  # a file
            begin, _, _, length = struct.unpack_from("<4I", table, offset)
            offset += 16
        elif kind == 9:  # a large one
            begin, length = struct.unpack_from("<2Q", table, offset)
            offset += 40
        else:
            raise ValueError(f"it has an inode of kind {kind}")
        block_sizes = struct.unpack_from(f"<{-(-length // BLOCK)}I", table, offset)
        offset += 4 * len(block_sizes)
        yield number, begin, begin + sum(block_size & SIZE for block_size in block_sizes)


def _names(table: bytes) -> Iterator[tuple[int, str]]:
    """Yield the inode number and the name of each entry of a folder."""
    at = 0
    while at + 12 <= len(table):
        count, _, base = struct.unpack_from("<3I", table, at)
        at += 12
        for _ in range(count + 1):
            _, offset, _, size = struct.unpack_from("<HhHH", table, at)
            yield base + offset, table[at + 8 : at + 9 + size].decode()
            at += 9 + size
