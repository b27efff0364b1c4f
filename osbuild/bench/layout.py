"""What lies where in a bundle: so that bytes that were downloaded can be told apart.

A bundle is a squashfs, a dm-verity hash tree over it, a signature, and the signature's size (RAUC's manual, "Bundle
Formats"). Squashfs is read as its format is described in the kernel's Documentation/filesystems/squashfs.rst and
fs/squashfs/squashfs_fs.h, as far as a bundle of ours goes: one folder, zstd, no fragments.
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
PLAIN = 1 << 15  # of a metadata block's header: it is not compressed
SIZE = (1 << 24) - 1  # of a data block's word: how many bytes it has on the disk
TABLES, TREE, SIGNATURE = "squashfs's own tables", "hash tree", "signature"


@dataclass(frozen=True)
class BundleRange:
    """Bytes `begin` to `end` of a bundle."""

    name: str
    begin: int
    end: int


def bundle_ranges(bundle: Path) -> list[BundleRange]:
    """All parts of a bundle, in their order. Raises `Error` where it is none, or of another make."""
    try:
        with bundle.open("rb") as file:
            return list(_parts(file, bundle.stat().st_size))
    except (struct.error, ValueError, KeyError, zstandard.ZstdError) as error:
        raise Error(f"this is no bundle that can be read: {error}", where=str(bundle)) from error


def count_bytes(ranges: Iterable[tuple[int, int]], parts: Sequence[BundleRange]) -> Counter[str]:
    """How many bytes of each part `ranges` (first byte, number of bytes) are; what comes twice counts twice."""
    counts: Counter[str] = Counter()
    for first, count in ranges:
        for part in parts:
            if (both := min(first + count, part.end) - max(first, part.begin)) > 0:
                counts[part.name] += both
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
    """The metadata blocks from `begin` to `end`, put together."""
    file.seek(begin)
    data, out, at = file.read(end - begin), bytearray(), 0
    while at < len(data):
        (word,) = struct.unpack_from("<H", data, at)
        block = data[at + 2 : at + 2 + (word & ~PLAIN)]
        out += block if word & PLAIN else zstandard.ZstdDecompressor().decompress(block, max_output_size=8192)
        at += 2 + len(block)
        if not block:
            break
    return bytes(out)


def _files(table: bytes) -> Iterator[tuple[int, int, int]]:
    """Number of a file's inode, and where its data begins and ends."""
    at = 0
    while at + 16 <= len(table):
        kind, _, _, _, _, number = struct.unpack_from("<4H2I", table, at)
        at += 16
        if kind == 1:  # a folder
            at += 16
            continue
        if kind == 3:  # a link
            at += 8 + struct.unpack_from("<I", table, at + 4)[0]
            continue
        if kind == 2:  # a file
            begin, _, _, length = struct.unpack_from("<4I", table, at)
            at += 16
        elif kind == 9:  # a large one
            begin, length = struct.unpack_from("<2Q", table, at)
            at += 40
        else:
            raise ValueError(f"it has an inode of kind {kind}")
        words = struct.unpack_from(f"<{-(-length // BLOCK)}I", table, at)
        at += 4 * len(words)
        yield number, begin, begin + sum(word & SIZE for word in words)


def _names(table: bytes) -> Iterator[tuple[int, str]]:
    """Number of an inode, and its name, of everything in a folder."""
    at = 0
    while at + 12 <= len(table):
        count, _, base = struct.unpack_from("<3I", table, at)
        at += 12
        for _ in range(count + 1):
            _, offset, _, size = struct.unpack_from("<HhHH", table, at)
            yield base + offset, table[at + 8 : at + 9 + size].decode()
            at += 9 + size
