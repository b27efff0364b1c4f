"""The states of a disk at every flush of a log of writes, and states that a power cut between two flushes may leave.

A flush makes everything before it durable. Of the writes after it, any subset may be on the disk after a power cut, in
any order. So before each flush some other states are made, in which some of these writes are missing, or torn between
sectors. A seed chooses the writes, so that a bad state can be reproduced.
"""

import array
import ctypes
import errno
import io
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from osbuild.formats import gpt
from support.write_log import Epoch, Flag, LoggedWrite, WriteLog

BLOCK = 4096  # bytes for each stamp
SECTOR = 512  # bytes that a disk writes atomically
CHUNK = 2**20
ZEROES = bytes(CHUNK)
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <linux/falloc.h>
libc = ctypes.CDLL(None, use_errno=True)
Stamps: TypeAlias = "array.array[int]"


@dataclass(frozen=True)
class Piece:
    """A partition, or the gap between two, in a file of its own that programs can open.

    `offset` and `size` are bytes on the disk.
    """

    name: str
    offset: int
    size: int
    path: Path
    file: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class Disk:
    """A raw image, split at its partitions into files in `folder`.

    Every block of 4 KiB and every piece has a stamp. Each change sets a new stamp, and undoing it restores the old one:
    the same stamp means the same contents.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self.size = image.stat().st_size
        self._stack = ExitStack()
        self._undo: list[tuple[int, bytes | int, Stamps]] | None = None
        self._pieces: dict[str, int] = {}
        self._clock = 0
        self._stamps = array.array("Q", bytes(8 * -(-self.size // BLOCK)))
        folder.mkdir(parents=True, exist_ok=True)
        with image.open("rb") as source:
            table = sorted(gpt.read_table(image).partitions, key=lambda partition: partition.offset)
            ranges, end = list[tuple[str, int, int]](), 0
            for entry in table:
                if entry.offset > end:
                    ranges.append((f"gap-{len(ranges)}", end, entry.offset - end))
                ranges.append((entry.name or f"part-{entry.number}", entry.offset, entry.size))
                end = entry.offset + entry.size
            ranges.append((f"gap-{len(ranges)}", end, self.size - end))
            self.pieces = tuple(self._cut(source.fileno(), folder, *piece_range) for piece_range in ranges)

    def _cut(self, source: int, folder: Path, name: str, offset: int, size: int) -> Piece:
        path = folder / f"{name}.img"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._stack.callback(os.close, file)
        os.ftruncate(file, size)
        for begin, length in extents(source, offset, size):
            copy_range(source, begin, file, begin - offset, length)
        return Piece(name, offset, size, path, file)

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def piece(self, name: str) -> Piece:
        """Return the piece of the partition of that name."""
        return next(piece for piece in self.pieces if piece.name == name)

    def has_piece(self, name: str) -> bool:
        return any(piece.name == name for piece in self.pieces)

    def read(self, offset: int, size: int) -> bytes:
        return b"".join(os.pread(piece.file, length, begin) for piece, begin, length in self._parts(offset, size))

    def write(self, offset: int, data: bytes) -> None:
        self._change(offset, len(data))
        written = 0
        for piece, begin, length in self._parts(offset, len(data)):
            os.pwrite(piece.file, data[written : written + length], begin)
            written += length

    def zero(self, offset: int, size: int) -> None:
        """Make a range a hole."""
        for begin in range(offset, offset + size, CHUNK):
            length = min(CHUNK, offset + size - begin)
            if not any(extents(piece.file, at, part_length) for piece, at, part_length in self._parts(begin, length)):
                continue  # it is a hole already
            self._change(begin, length)
            for piece, at, part_length in self._parts(begin, length):
                punch_hole(piece.file, at, part_length)

    def stamps(self, offset: int, size: int) -> Stamps:
        """Return the stamps of all blocks in a range."""
        return self._stamps[offset // BLOCK : -(-(offset + size) // BLOCK)]

    def stamp(self, piece: Piece) -> int:
        """Return the stamp of a whole piece."""
        return self._pieces.get(piece.name, 0)

    @contextmanager
    def tentative(self) -> Iterator[None]:
        """Undo all changes at the end of the block."""
        assert self._undo is None
        self._undo, pieces = [], dict(self._pieces)
        try:
            yield
        finally:
            undo, self._undo, self._pieces = self._undo, None, pieces
            for offset, old, stamps in reversed(undo):
                if isinstance(old, int):
                    for piece, at, length in self._parts(offset, old):
                        punch_hole(piece.file, at, length)
                else:
                    restored = 0
                    for piece, at, length in self._parts(offset, old_size := len(old)):
                        os.pwrite(piece.file, old[restored : restored + length], at)
                        restored += length
                    assert restored == old_size
                first = offset // BLOCK
                self._stamps[first : first + len(stamps)] = stamps

    def open(self) -> "View":
        """Open the whole disk as one file."""
        return View(self)

    def assemble(self, target: Path) -> Path:
        """Write the disk as one sparse image."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            for piece in self.pieces:
                for begin, length in extents(piece.file, 0, piece.size):
                    copy_range(piece.file, begin, descriptor, piece.offset + begin, length)
        finally:
            os.close(descriptor)
        return target

    def _change(self, offset: int, size: int) -> None:
        first, last = offset // BLOCK, -(-(offset + size) // BLOCK)
        if self._undo is not None:
            hole = not any(extents(piece.file, at, length) for piece, at, length in self._parts(offset, size))
            old: bytes | int = size if hole else self.read(offset, size)
            self._undo.append((offset, old, self._stamps[first:last]))
        self._clock += 1
        self._stamps[first:last] = array.array("Q", [self._clock]) * (last - first)
        for piece, _, _ in self._parts(offset, size):
            self._pieces[piece.name] = self._clock

    def _parts(self, offset: int, size: int) -> Iterator[tuple[Piece, int, int]]:
        """Yield the pieces that a range overlaps, with offset and size of the overlap in each."""
        assert offset >= 0 and offset + size <= self.size, f"{offset}+{size} is beyond the disk's {self.size} bytes"
        for piece in self.pieces:
            begin, end = max(offset, piece.offset), min(offset + size, piece.end)
            if begin < end:
                yield piece, begin - piece.offset, end - begin


class View(io.RawIOBase):
    """A disk as a readable file."""

    def __init__(self, disk: Disk) -> None:
        self.disk, self.position = disk, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.disk.size}[whence]
        self.position = start + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        remaining = max(0, self.disk.size - self.position)
        data = self.disk.read(self.position, remaining if size < 0 else min(size, remaining))
        self.position += len(data)
        return data


@dataclass(frozen=True)
class DiskState:
    """A state of the disk. `variant` is 0 at the flush that ends the epoch, otherwise the number of a partial state.

    `missing` counts the epoch's writes that are not, or not completely, on the disk.
    """

    epoch: Epoch
    variant: int
    missing: int

    def __str__(self) -> str:
        if not self.variant:
            return f"flush {self.epoch.number} (entry {self.epoch.end})"
        missing = f"{self.missing} of {len(self.epoch.entries)} writes not done"
        return f"before flush {self.epoch.number}, variant {self.variant}: {missing}"


def replay_states(
    log: WriteLog, disk: Disk, *, variants: int = 4, seed: int = 0, epochs: Iterator[Epoch] | None = None
) -> Iterator[DiskState]:
    """Bring `disk` into every state of `log` in turn. Each state lasts until the next is requested.

    `variants` is the number of states before each flush; there are fewer if an epoch has too few writes.
    """
    for epoch in epochs or log.epochs():
        chance = random.Random(f"{seed}/{epoch.number}")
        for variant in range(1, variants + 1):
            chosen = choose_writes(epoch.entries, variant, chance)
            if chosen is None:
                continue
            with disk.tentative():
                for entry, sectors in chosen:
                    apply_entry(log, disk, entry, sectors)
                complete = sum(1 for _, sectors in chosen if sectors is None)
                yield DiskState(epoch, variant, len(epoch.entries) - complete)
        for entry in epoch.entries:
            apply_entry(log, disk, entry)
        yield DiskState(epoch, 0, 0)


ChosenWrites = list[tuple[LoggedWrite, Sequence[int] | None]]


def choose_writes(entries: Sequence[LoggedWrite], variant: int, chance: random.Random) -> ChosenWrites | None:
    """Choose some of `entries`, each with its written sectors, None for all. Returns None if the state is not new.

    By `variant`, in turn: the first entries, the last of them torn; the first in ascending or descending order of
    offsets; random ones; all but one.
    """
    kind = variant % 4
    if kind == 1:
        count = chance.randrange(len(entries))
        last = entries[count]
        sectors = range(last.size // SECTOR)
        if count == 0 and len(sectors) < 2:
            return None
        torn = sorted(chance.sample(sectors, chance.randrange(1, len(sectors)))) if len(sectors) > 1 else []
        return [*((entry, None) for entry in entries[:count]), (last, torn)]
    if len(entries) < 2:
        return None
    if kind == 2:
        ordered = sorted(entries, key=lambda entry: entry.offset, reverse=chance.random() < 0.5)
        written = set(ordered[: chance.randrange(1, len(entries))])
    elif kind == 3:
        written = {entry for entry in entries if chance.random() < 0.5} or {chance.choice(entries)}
    else:
        written = set(entries)
    if len(written) == len(entries):
        written.remove(entries[chance.randrange(len(entries) - 1)])  # without the last entry it would be an earlier cut
    return [(entry, None) for entry in entries if entry in written]


def apply_entry(log: WriteLog, disk: Disk, entry: LoggedWrite, sectors: Sequence[int] | None = None) -> None:
    """Apply an entry to the disk: all of it, or only some of its sectors."""
    parts = [(0, entry.size)] if sectors is None else [(at * SECTOR, n * SECTOR) for at, n in consecutive_runs(sectors)]
    for start, size in parts:
        for begin in range(start, start + size, CHUNK):
            length = min(CHUNK, start + size - begin)
            data = None if entry.flags & Flag.DISCARD else log.data(entry, begin, length)
            if data is None or data == ZEROES[:length]:
                disk.zero(entry.offset + begin, length)
            else:
                disk.write(entry.offset + begin, data)


def consecutive_runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Group ascending numbers into runs of consecutive numbers, as (first, count)."""
    begin = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[begin], index - begin
            begin = index


def extents(file: int, offset: int, size: int) -> list[tuple[int, int]]:
    """Return the extents of a range in which a file has data, as (offset, size) (lseek(2), SEEK_DATA)."""
    ranges, end = [], offset + size
    while offset < end:
        try:
            begin = os.lseek(file, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        if begin >= end:
            break
        offset = min(end, os.lseek(file, begin, os.SEEK_HOLE))
        ranges.append((begin, offset - begin))
    return ranges


def copy_range(source: int, begin: int, target: int, target_offset: int, size: int) -> None:
    """Copy a range between files; the file system may share the blocks."""
    while size:
        copied = os.copy_file_range(source, target, size, begin, target_offset)
        assert copied, "the file ends early"
        begin, target_offset, size = begin + copied, target_offset + copied, size - copied


def punch_hole(file: int, offset: int, size: int) -> None:
    """Make a range of a file a hole (fallocate(2))."""
    if libc.fallocate(file, PUNCH, ctypes.c_int64(offset), ctypes.c_int64(size)):
        raise OSError(ctypes.get_errno(), "fallocate")
