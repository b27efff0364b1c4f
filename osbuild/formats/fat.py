"""Reads files from a FAT file system, such as an ESP, without mounting it.

Sources: Microsoft's "FAT: General Overview of On-Disk Format", version 1.03, with long names; UEFI 2.10, section 13.3.
"""

import array
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import BinaryIO

from osbuild.shared.errors import Error

ENTRY = struct.Struct("<11sBB7xH4xHI")  # name, attributes, case, cluster high, cluster low, size
VOLUME, FOLDER, LONG_NAME = 0x08, 0x10, 0x0F
AGAIN = "copy or decompress the image again; write a disk again with `edge-osbuild flash`"
LARGEST_FOLDER = 2**16 * ENTRY.size  # bytes (section 6)
# Limits for damaged file systems. No ESP has as many clusters or files.
MOST_CLUSTERS, MOST_FILES = 2**24, 2**16
DEEPEST = 128  # levels of folders; Linux reads at most 260 characters of a path


@dataclass(frozen=True)
class File:
    """One file or folder; `size` is in bytes, 0 for a folder."""

    path: PurePosixPath
    size: int
    folder: bool
    cluster: int


class Fat:
    """A FAT12, FAT16 or FAT32 file system at `offset` bytes in `image`, which must stay open."""

    def __init__(self, image: BinaryIO, offset: int, where: str) -> None:
        """Read the boot sector and the allocation table. Raises `Error` if there is no FAT file system."""
        self.image, self.offset, self.where = image, offset, where
        boot = self._at(0, 512)
        if len(boot) < 512 or boot[510:] != b"\x55\xaa":
            raise Error("no FAT file system", where=where, hint=AGAIN)
        sector, per_cluster, reserved, fats, root, total16, _, fat16 = struct.unpack_from("<HBHBHHBH", boot, 11)
        total32, fat32, _, root_cluster = struct.unpack_from("<IIII", boot, 32)
        if sector not in (512, 1024, 2048, 4096) or per_cluster.bit_count() != 1 or not reserved or not fats:
            raise Error("no FAT file system", where=where, hint=AGAIN)
        fat_sectors = fat16 or fat32
        first = reserved + fats * fat_sectors + -(-root * 32 // sector)
        if first > (total16 or total32):
            raise Error("the FAT file system is damaged: its tables are larger than it is", where=where, hint=AGAIN)
        self.size = (total16 or total32) * sector
        self.cluster_size = sector * per_cluster
        self.clusters = ((total16 or total32) - first) // per_cluster
        if self.clusters > MOST_CLUSTERS:
            raise Error(f"the FAT file system is damaged: {self.clusters} clusters", where=where, hint=AGAIN)
        self.label = (boot[43:54] if fat16 else boot[71:82]).decode("ascii", "replace").rstrip()
        self._data = first * sector
        self._root = None if not fat16 else (reserved + fats * fat16) * sector
        self._root_size, self._root_cluster = root * 32, root_cluster
        # Like Linux, recognise FAT32 by its 16-bit FAT size of 0: mkfs.fat makes smaller ones than the document allows.
        self._bits = 32 if not fat16 else 16 if self.clusters >= 4085 else 12
        self._fat = self._at(reserved * sector, min(fat_sectors * sector, (self.clusters + 2) * 4))
        self._table = numbers(self._fat, self._bits)
        # Like Linux: the table may be too short for the number of clusters in the boot sector.
        self.clusters = min(self.clusters, max(0, len(self._fat) * 8 // self._bits - 2))

    def walk(self) -> Iterator[File]:
        """Yield every file and folder, a folder before its contents. Raises `Error` if the file system is damaged."""
        for number, file in enumerate(self._folder(PurePosixPath(), None, set())):
            if number == MOST_FILES:
                raise Error(
                    f"the FAT file system is damaged: more than {MOST_FILES} files", where=self.where, hint=AGAIN
                )
            yield file

    def used(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size, in bytes within the file system, of its metadata and allocated clusters."""
        yield 0, self._data
        start = 2
        for cluster in range(2, self.clusters + 3):
            if cluster == self.clusters + 2 or not self._entry(cluster):
                if start < cluster:
                    yield self._data + (start - 2) * self.cluster_size, (cluster - start) * self.cluster_size
                start = cluster + 1

    def read(self, file: File, offset: int = 0, size: int | None = None) -> bytes:
        """Return bytes of a file. Raises `Error` if its cluster chain is damaged."""
        end = file.size if size is None else min(file.size, offset + size)
        if offset >= end:
            return b""
        first = offset // self.cluster_size
        data = self._chain(file.cluster, first, count=-(-end // self.cluster_size) - first)
        start = offset - first * self.cluster_size
        return data[start : start + end - offset]

    def extents(self, file: File) -> list[tuple[int, int]]:
        """Return offset and size, in bytes within the file system, of the clusters of a file, in the file's order.

        Raises `Error` if its cluster chain is damaged.
        """
        extents: list[tuple[int, int]] = []
        cluster: int | None = file.cluster
        remaining = -(-file.size // self.cluster_size)
        while remaining:
            if cluster is None or not 2 <= cluster < self.clusters + 2:
                raise Error(f"the FAT file system is damaged: {file.path} ends early", where=self.where, hint=AGAIN)
            count = self._run(cluster, remaining)
            extents.append((self._data + (cluster - 2) * self.cluster_size, count * self.cluster_size))
            remaining -= count
            cluster = self._next(cluster + count - 1) if remaining else None
        return extents

    def _run(self, cluster: int, most: int) -> int:
        """Count the contiguous clusters of a chain from `cluster` on, at most `most`."""
        most = min(most, self.clusters + 2 - cluster)
        if self._bits != 12 and most > 1:  # nearly every file is contiguous: compare its whole chain at once
            ascending = sequence(self._table.typecode, self.clusters + 3)
            if self._table[cluster : cluster + most - 1] == ascending[cluster + 1 : cluster + most]:
                return most
        count = 1
        while count < most and self._next(cluster + count - 1) == cluster + count:
            count += 1
        return count

    def _at(self, offset: int, size: int) -> bytes:
        self.image.seek(self.offset + offset)
        return self.image.read(size)

    def _entry(self, cluster: int) -> int:
        """Return the allocation table's entry of a cluster: 0 if it is free."""
        if self._bits != 12:
            return self._table[cluster] & 0x0FFFFFFF if cluster < len(self._table) else 0
        offset = cluster * 12 // 8
        pair = int.from_bytes(self._fat[offset : offset + 2], "little")
        return pair >> 4 if cluster & 1 else pair & 0xFFF

    def _next(self, cluster: int) -> int | None:
        """Return the next cluster of the chain, None at its end."""
        value = self._entry(cluster)
        return None if value >= {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self._bits] else value

    def _chain(self, cluster: int | None, skip: int = 0, *, count: int, shorter: bool = False) -> bytes:
        """Return the contents of `count` clusters of a chain after the first `skip`.

        Raises `Error` for a chain with fewer clusters, unless `shorter` allows it.
        """
        data: list[bytes] = []
        number, visited = 0, bytearray(self.clusters + 2)
        while cluster is not None and len(data) < count:
            if not 2 <= cluster < self.clusters + 2 or visited[cluster]:
                raise Error(f"the FAT file system is damaged: cluster {cluster}", where=self.where, hint=AGAIN)
            visited[cluster] = True
            if number >= skip:
                data.append(self._at(self._data + (cluster - 2) * self.cluster_size, self.cluster_size))
            cluster, number = self._next(cluster), number + 1
        if len(data) < count and not shorter:
            raise Error("the FAT file system is damaged: a file ends early", where=self.where, hint=AGAIN)
        return b"".join(data)

    def _folder(self, path: PurePosixPath, cluster: int | None, visited: set[int]) -> Iterator[File]:
        if cluster is None and self._root is not None:
            data = self._at(self._root, self._root_size)
        else:
            cluster = self._root_cluster if cluster is None else cluster
            if cluster in visited:
                raise Error("the FAT file system is damaged: a folder is within itself", where=self.where, hint=AGAIN)
            visited.add(cluster)
            data = self._chain(cluster, count=-(-LARGEST_FOLDER // self.cluster_size), shorter=True)
        long: dict[int, bytes] = {}
        for index in range(0, len(data) - 31, 32):
            name, attributes, case, high, low, size = ENTRY.unpack_from(data, index)
            if name[0] == 0:
                return
            if name[0] == 0xE5:
                long = {}
            elif attributes & 0x3F == LONG_NAME:
                raw = data[index : index + 32]
                long[raw[0] & 0x3F] = raw[1:11] + raw[14:26] + raw[28:32]
            elif attributes & VOLUME or name.startswith(b"."):
                long = {}
            else:
                text = _long_name(long) or _short_name(name, case)
                file = File(path / text, size, bool(attributes & FOLDER), high << 16 | low)
                long = {}
                yield file
                if file.folder:
                    if len(file.path.parts) > DEEPEST:
                        message = f"the FAT file system is damaged: more than {DEEPEST} levels of folders"
                        raise Error(message, where=self.where, hint=AGAIN)
                    yield from self._folder(file.path, file.cluster, visited)


def numbers(table: bytes, bits: int) -> "array.array[int]":
    """Return the entries of a FAT16 or FAT32 table; an empty array for FAT12."""
    if bits == 12:
        return array.array("H")
    entries = array.array({16: "H", 32: "I"}[bits], table[: len(table) - len(table) % (bits // 8)])
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


@lru_cache(maxsize=4)
def sequence(typecode: str, count: int) -> "array.array[int]":
    """Return 0, 1, 2, … as an array."""
    return array.array(typecode, range(count))


def _long_name(parts: dict[int, bytes]) -> str:
    raw = b"".join(parts[number] for number in sorted(parts))
    return raw.decode("utf-16-le", "replace").partition("\0")[0].replace("/", "_")


def _short_name(name: bytes, case: int) -> str:
    base, extension = (part.decode("ascii", "replace").rstrip() for part in (name[:8], name[8:]))
    base = base.lower() if case & 0x08 else base
    extension = extension.lower() if case & 0x10 else extension
    return (f"{base}.{extension}" if extension else base).replace("/", "_")
