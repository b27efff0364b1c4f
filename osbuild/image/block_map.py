"""Finds out which parts of a disk image have to be written.

Holes of the image's file are not enough to go by: a hole inside a file system stands for zeros that someone reads, be
it in an allocation table or under a hash tree, and what an older card has there would be read instead. So to the
file's data comes everything that a file system or hash tree in the image uses, holes and all.
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
    """The map of a disk image with checksums. Raises `Error` if it cannot be read or has no valid GPT."""
    size = image.stat().st_size
    with image.open("rb") as file:
        ranges = tuple(Range(r.offset, r.size, hash_range(file, r.offset, r.size)) for r in find_used_ranges(image))
    return Bmap(size, ranges)


def hash_range(file: BinaryIO, offset: int, size: int) -> str:
    """sha256 of part of a file, in hex."""
    made = hashlib.sha256()
    file.seek(offset)
    while size:
        data = file.read(min(size, CHUNK))
        made.update(data)
        size -= len(data)
    return made.hexdigest()


def find_used_ranges(image: Path) -> tuple[Range, ...]:
    """Everything of a disk image that is read by anyone. Raises `Error` if it has no valid GPT."""
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
    """What of a file is not a hole (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield Range(start, offset - start)


def partition_ranges(file: BinaryIO, partition: gpt.Partition) -> Iterator[Range]:
    """What the file system or hash tree of a partition takes of it; all of a partition that holds anything else."""
    for reader in (superblocks.read_erofs, superblocks.read_verity):
        found = reader(file, partition.offset)
        if found is not None and found.size <= partition.size:
            yield Range(partition.offset, found.size)
            return
    try:
        yield from fat_ranges(file, partition.offset, partition.name)
    except Error:
        yield Range(partition.offset, partition.size)


def fat_ranges(file: BinaryIO, offset: int, where: str) -> Iterator[Range]:
    """Boot sectors, tables, root folder and taken clusters of the FAT file system at `offset`."""
    for start, size in Fat(file, offset, where).used():
        yield Range(offset + start, size)
