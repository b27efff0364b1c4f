"""Logs of every write to a disk, as QEMU's `blklogwrites` driver and Linux' dm-log-writes make them.

Format: the head of Linux' drivers/md/dm-log-writes.c, and Documentation/admin-guide/device-mapper/log-writes.rst. A
sector with the superblock; then for each entry a sector that describes it, and its data. QEMU enters a request when it
is done, and before the guest is told so: whatever the guest knew to be written when it asked for a flush stands before
that flush.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType

from osbuild.shared.errors import Error

SUPER = struct.Struct("<QQQI")  # magic, version, number of entries, bytes of a sector
ENTRY = struct.Struct("<QQQQ")  # sector, number of sectors, flags, bytes of a mark
MAGIC, VERSION = 0x6A736677736872, 1


class Flag(IntFlag):
    """What an entry is; one with none of these is a plain write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


PLAIN = Flag(0)


@dataclass(frozen=True, slots=True)
class LoggedWrite:
    """One request; `offset` and `size` are bytes on the disk, `place` is where its data begins in the log."""

    number: int
    offset: int
    size: int
    flags: Flag
    place: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was written between two flushes. `end` counts the log's entries up to and with the flush that ends it.

    Without `flushed` the log ends before that flush.
    """

    number: int
    entries: tuple[LoggedWrite, ...]
    end: int
    flushed: bool


class WriteLog:
    """A log that is not written to any more. Raises `Error` where it is damaged."""

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
        """Every entry, in the order in which the requests were done."""
        place = self.sector
        for number in range(self.count):
            sector, sectors, bits, length = ENTRY.unpack(self._at(place, ENTRY.size))
            if bits > sum(Flag):
                raise Error(f"entry {number} has the flags {bits:#x}", where=str(self.path))
            flags = Flag(bits)
            mark = self._at(place + ENTRY.size, length).decode(errors="replace") if flags & Flag.MARK else ""
            place += self.sector
            yield LoggedWrite(number, sector * self.sector, sectors * self.sector, flags, place, mark)
            if not flags & Flag.DISCARD:
                place += sectors * self.sector

    def data(self, entry: LoggedWrite, begin: int = 0, size: int | None = None) -> bytes:
        """What an entry wrote, from `begin` on; not for discards, which have none."""
        return self._at(entry.place + begin, entry.size - begin if size is None else size)

    def epochs(self) -> Iterator[Epoch]:
        """The writes between flushes. Flushes with nothing before them end no epoch of their own."""
        number, entries, end = 0, list[LoggedWrite](), 0
        for entry in self.entries():
            end = entry.number + 1
            if entry.flags & Flag.MARK:
                continue
            if entry.flags & Flag.FLUSH and entries:  # what it carries itself comes after the flush
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
        """Every write as an epoch of its own: for SD cards, which know no flush and take each write as it comes."""
        writes = (entry for entry in self.entries() if entry.size and not entry.flags & Flag.MARK)
        for number, entry in enumerate(writes):
            yield Epoch(number, (entry,), entry.number + 1, True)

    def _at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise Error(f"the log ends at {self.size} bytes, within an entry", where=str(self.path))
        return data


def position(path: Path) -> int:
    """How many entries a log has that QEMU may be writing to; 0 before the first."""
    with path.open("rb") as file:
        head = file.read(SUPER.size)
    return int(SUPER.unpack(head)[2]) if len(head) == SUPER.size else 0


class Writer:
    """Makes a log, for tests of what reads them."""

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
        """As QEMU logs the command to write zeroes: with a hole."""
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
