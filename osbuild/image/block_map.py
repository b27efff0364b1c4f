"""Finds the ranges of a disk image that have to be written.

Skipping the holes of the image file is not enough. A hole inside a file system may be zeros that are read, such as free
entries of an allocation table or blocks covered by a hash tree, and a used SD card has other bytes there. So the ranges
are the data of the file and everything that a file system or hash tree uses, including holes.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from osbuild.formats import gpt, superblocks
from osbuild.formats.bmap import Bmap, Range, join_ranges
from osbuild.formats.fat import Fat
from osbuild.shared.errors import Error

MIB = 2**20
CHUNK = 4 * MIB


def make_bmap(image: Path) -> Bmap:
    """Return the block map of a disk image, with checksums. Raises `Error` without a valid GPT, and `OSError`."""
    size = image.stat().st_size
    with image.open("rb") as file:
        ranges = tuple(Range(r.offset, r.size, hash_range(file, r.offset, r.size)) for r in find_used_ranges(image))
    return Bmap(size, ranges)


def hash_range(file: BinaryIO, offset: int, size: int) -> str:
    """Return the SHA-256, in hex, of `size` bytes of a file at `offset`."""
    digest = hashlib.sha256()
    file.seek(offset)
    while size:
        data = file.read(min(size, CHUNK))
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def find_used_ranges(image: Path) -> tuple[Range, ...]:
    """Return the ranges of a disk image that may be read. Raises `Error` if it has no valid GPT."""
    table = gpt.read_table(image)
    with image.open("rb") as file:
        data = list(file_extents(file, table.size))
        used = [Range(0, MIB), *data]
        for partition in table.partitions:
            inside = [extent for extent in data if extent.offset < partition.offset + partition.size]
            if any(extent.end > partition.offset for extent in inside):
                used += partition_ranges(file, partition)
    return join_ranges([extent for extent in used if extent.size], table.size)


def file_extents(file: BinaryIO, size: int) -> Iterator[Range]:
    """Yield the ranges of a file that are not holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows
            return
        offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield Range(start, offset - start)


def partition_ranges(file: BinaryIO, partition: gpt.Partition) -> Iterator[Range]:
    """Yield the ranges that the file system or hash tree of a partition uses; the whole partition if it is unknown."""
    for reader in (superblocks.read_erofs, superblocks.read_verity):
        superblock = reader(file, partition.offset)
        if superblock is not None and superblock.size <= partition.size:
            yield Range(partition.offset, superblock.size)
            return
    try:
        yield from fat_ranges(file, partition.offset, partition.name)
    except Error:
        yield Range(partition.offset, partition.size)


def fat_ranges(file: BinaryIO, offset: int, where: str) -> Iterator[Range]:
    """Yield the used ranges of the FAT file system at `offset`: metadata and allocated clusters. Raises `Error`."""
    for start, size in Fat(file, offset, where).used():
        yield Range(offset + start, size)
