"""Logs of every write to a disk, in the format of QEMU's `blklogwrites` driver and Linux' dm-log-writes.

Format: the head of Linux' drivers/md/dm-log-writes.c, and Documentation/admin-guide/device-mapper/log-writes.rst. A
sector with the superblock; then for each entry a sector that describes it, and its data. QEMU logs a request after it
was executed and before it is completed for the guest: all writes that had completed when the guest requested a flush
are logged before that flush.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType

from osbuild.shared.errors import Error

SUPER = struct.Struct("<QQQI")  # magic, version, number of entries, sector size in bytes
ENTRY = struct.Struct("<QQQQ")  # sector, number of sectors, flags, length of a mark in bytes
MAGIC, VERSION = 0x6A736677736872, 1


class Flag(IntFlag):
    """The kind of an entry; without flags it is a plain write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


PLAIN = Flag(0)


@dataclass(frozen=True, slots=True)
class LoggedWrite:
    """One request; `offset` and `size` are bytes on the disk, `data_offset` is the offset of its data in the log."""

    number: int
    offset: int
    size: int
    flags: Flag
    data_offset: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The writes between two flushes. `end` counts the log's entries up to and including the flush that ends it.

    Without `flushed` the log ends before that flush.
    """

    number: int
    entries: tuple[LoggedWrite, ...]
    end: int
    flushed: bool


class WriteLog:
    """A finished log. Raises `Error` if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size
        magic, version, self.count, self.sector = SUPER.unpack(self._at(0, SUPER.size))
        if (magic, version) != (MAGIC, VERSION) or self.sector < SUPER.size:
            self.close()
            raise Error("this is no log of writes", where=str(path), hint="was anything flushed by the guest?")

    def __enter__(self) -> "WriteLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def entries(self) -> Iterator[LoggedWrite]:
        """Yield every entry, in the order in which the requests were executed."""
        offset = self.sector
        for number in range(self.count):
            sector, sectors, bits, length = ENTRY.unpack(self._at(offset, ENTRY.size))
            if bits > sum(Flag):
                raise Error(f"entry {number} has the flags {bits:#x}", where=str(self.path))
            flags = Flag(bits)
            mark = self._at(offset + ENTRY.size, length).decode(errors="replace") if flags & Flag.MARK else ""
            offset += self.sector
            yield LoggedWrite(number, sector * self.sector, sectors * self.sector, flags, offset, mark)
            if not flags & Flag.DISCARD:
                offset += sectors * self.sector

    def data(self, entry: LoggedWrite, begin: int = 0, size: int | None = None) -> bytes:
        """Return the data of an entry from `begin` on; discards have no data."""
        return self._at(entry.data_offset + begin, entry.size - begin if size is None else size)

    def epochs(self) -> Iterator[Epoch]:
        """Yield the writes between flushes. A flush without writes before it does not end an epoch."""
        number, entries, end = 0, list[LoggedWrite](), 0
        for entry in self.entries():
            end = entry.number + 1
            if entry.flags & Flag.MARK:
                continue
            if entry.flags & Flag.FLUSH and entries:  # data of the request itself is written after the flush
                yield Epoch(number, tuple(entries), end, True)
                number, entries = number + 1, []
            if entry.size:
                entries.append(entry)
            if entry.size and entry.flags & Flag.FUA:
                yield Epoch(number, tuple(entries), end, True)
                number, entries = number + 1, []
        if entries:
            yield Epoch(number, tuple(entries), end, False)

    def requests(self) -> Iterator[Epoch]:
        """Yield every write as an epoch of its own, for SD cards, which have no flush and write in order."""
        writes = (entry for entry in self.entries() if entry.size and not entry.flags & Flag.MARK)
        for number, entry in enumerate(writes):
            yield Epoch(number, (entry,), entry.number + 1, True)

    def _at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise Error(f"the log ends at {self.size} bytes, within an entry", where=str(self.path))
        return data


def position(path: Path) -> int:
    """Return the number of entries of a log that QEMU may be writing to; 0 before the first."""
    with path.open("rb") as file:
        head = file.read(SUPER.size)
    return int(SUPER.unpack(head)[2]) if len(head) == SUPER.size else 0


class Writer:
    """Writes a log, for tests of `WriteLog`."""

    def __init__(self, path: Path, *, sector: int = 512) -> None:
        self.sector, self.count = sector, 0
        self._file = path.open("wb")
        self._file.truncate(sector)
        self._file.seek(sector)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.seek(0)
        self._file.write(SUPER.pack(MAGIC, VERSION, self.count, self.sector))
        self._file.close()

    def write(self, offset: int, data: bytes, flags: Flag = PLAIN) -> None:
        self._entry(offset, len(data), flags)
        self._file.write(data)

    def discard(self, offset: int, size: int) -> None:
        self._entry(offset, size, Flag.DISCARD)

    def zero(self, offset: int, size: int) -> None:
        """Log a command to write zeroes like QEMU: with a hole."""
        self._entry(offset, size, PLAIN)
        self._file.seek(size, os.SEEK_CUR)
        self._file.truncate()

    def flush(self) -> None:
        self._entry(0, 0, Flag.FLUSH)

    def mark(self, text: str) -> None:
        self._entry(0, 0, Flag.MARK, text.encode())

    def _entry(self, offset: int, size: int, flags: Flag, mark: bytes = b"") -> None:
        assert offset % self.sector == size % self.sector == 0
        head = ENTRY.pack(offset // self.sector, size // self.sector, flags, len(mark)) + mark
        self._file.write(head.ljust(self.sector, b"\0"))
        self.count += 1
