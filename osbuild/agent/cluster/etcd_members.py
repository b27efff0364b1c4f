"""Counts the members of a stopped etcd, from its database.

etcd stores its members in the bucket `members` of a bbolt database. Format: go.etcd.io/bbolt, internal/common (page.go,
meta.go, bucket.go). All architectures of the images are little-endian.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent.errors import Problem

BUCKET = b"members"
MAGIC = 0xED0CDAED
META = struct.Struct("<IIIIQQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, end, transaction, sum
PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
BRANCH, LEAF = 1, 2  # flags of a page
BRANCH_ELEMENT = struct.Struct("<IIQ")  # position, size of the key, page
LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position, sizes of key and value
BUCKET_HEADER = struct.Struct("<QQ")  # root page, sequence; without a root page, the page follows
FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


@dataclass(frozen=True)
class BoltDatabase:
    content: mmap.mmap
    page_size: int
    root: int

    def page(self, number: int) -> memoryview:
        begin = number * self.page_size
        overflow = PAGE.unpack_from(self.content, begin)[3]
        return memoryview(self.content)[begin : begin + (overflow + 1) * self.page_size]

    def entries(self, page: memoryview) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values below a page."""
        _, flags, count, _ = PAGE.unpack_from(page)
        for index in range(count):
            begin = PAGE.size + index * LEAF_ELEMENT.size  # elements of both kinds have this size
            if flags & BRANCH:
                yield from self.entries(self.page(BRANCH_ELEMENT.unpack_from(page, begin)[2]))
            elif flags & LEAF:
                _, position, key_size, value_size = LEAF_ELEMENT.unpack_from(page, begin)
                key = begin + position
                yield bytes(page[key : key + key_size]), bytes(page[key + key_size : key + key_size + value_size])

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries of a bucket; none if it does not exist."""
        for key, value in self.entries(self.page(self.root)):
            if key == name:
                root, _ = BUCKET_HEADER.unpack_from(value)
                yield from self.entries(self.page(root) if root else memoryview(value)[BUCKET_HEADER.size :])


def open_database(content: mmap.mmap) -> BoltDatabase:
    """Find the newer of the two complete meta pages. Raises `ValueError`."""
    found = {}
    page_size = META.unpack_from(content, PAGE.size)[2]
    for begin in (PAGE.size, page_size + PAGE.size):
        magic, _, size, _, root, _, _, _, transaction, checksum = META.unpack_from(content, begin)
        if magic == MAGIC and checksum == fnv1a(content[begin : begin + META.size - 8]):
            found[transaction] = BoltDatabase(content, size, root)
    if not found:
        raise ValueError("no complete meta page")
    return found[max(found)]


def fnv1a(content: bytes) -> int:
    """The hash FNV-1a of 64 bits (draft-eastlake-fnv)."""
    result = FNV_OFFSET
    for byte in content:
        result = (result ^ byte) * FNV_PRIME % 2**64
    return result


def count_members(path: Path) -> int:
    """The number of members in the database at `path`. Raises `Problem`, `FileNotFoundError`, other `OSError`."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return len(list(open_database(content).bucket(BUCKET)))
    except (struct.error, ValueError, RecursionError) as error:
        raise Problem(f"not a database of etcd: {error}", where=str(path), hint="restore a snapshot") from error
