"""A disk as it was at every flush of a log of writes, and as a power cut between two flushes may have left it.

At a flush everything before it is durable. Of what is written after it, any part may be on the disk when the power
goes, in any order: so before each flush a number of other states are made, in which some of these writes are missing,
or torn between sectors. Which ones is decided by a seed, so that a state that was found bad can be made again.
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

BLOCK = 4096  # bytes that have one stamp
SECTOR = 512  # bytes that a disk writes whole or not at all
CHUNK = 2**20
ZEROES = bytes(CHUNK)
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <linux/falloc.h>
libc = ctypes.CDLL(None, use_errno=True)
Stamps: TypeAlias = "array.array[int]"


@dataclass(frozen=True)
class Piece:
    """A part of the disk, in a file of its own so that programs can be given it: a partition, or what lies between.

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
    """A raw image, cut at its partitions into files in `folder`.

    Every block of 4 KiB has a stamp, and every piece too. It is another one after each change, and the same one again
    after a change was taken back: whoever has seen a stamp has seen the block, or the piece.
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
            places, end = list[tuple[str, int, int]](), 0
            for part in table:
                if part.offset > end:
                    places.append((f"gap-{len(places)}", end, part.offset - end))
                places.append((part.name or f"part-{part.number}", part.offset, part.size))
                end = part.offset + part.size
            places.append((f"gap-{len(places)}", end, self.size - end))
            self.pieces = tuple(self._cut(source.fileno(), folder, *place) for place in places)

    def _cut(self, source: int, folder: Path, name: str, offset: int, size: int) -> Piece:
        path = folder / f"{name}.img"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._stack.callback(os.close, file)
        os.ftruncate(file, size)
        for begin, length in extents(source, offset, size):
            copy(source, begin, file, begin - offset, length)
        return Piece(name, offset, size, path, file)

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def piece(self, name: str) -> Piece:
        """The piece with a partition of that name."""
        return next(piece for piece in self.pieces if piece.name == name)

    def has(self, name: str) -> bool:
        return any(piece.name == name for piece in self.pieces)

    def read(self, offset: int, size: int) -> bytes:
        return b"".join(os.pread(piece.file, length, begin) for piece, begin, length in self._parts(offset, size))

    def write(self, offset: int, data: bytes) -> None:
        self._change(offset, len(data))
        done = 0
        for piece, begin, length in self._parts(offset, len(data)):
            os.pwrite(piece.file, data[done : done + length], begin)
            done += length

    def zero(self, offset: int, size: int) -> None:
        """Make a range a hole."""
        for begin in range(offset, offset + size, CHUNK):
            length = min(CHUNK, offset + size - begin)
            if not any(extents(piece.file, at, part) for piece, at, part in self._parts(begin, length)):
                continue  # it is one already
            self._change(begin, length)
            for piece, at, part in self._parts(begin, length):
                punch(piece.file, at, part)

    def stamps(self, offset: int, size: int) -> Stamps:
        """The stamps of all blocks in a range."""
        return self._stamps[offset // BLOCK : -(-(offset + size) // BLOCK)]

    def stamp(self, piece: Piece) -> int:
        """The stamp of a whole piece."""
        return self._pieces.get(piece.name, 0)

    @contextmanager
    def tentative(self) -> Iterator[None]:
        """Whatever is changed in the block is taken back at its end."""
        assert self._undo is None
        self._undo, pieces = [], dict(self._pieces)
        try:
            yield
        finally:
            undo, self._undo, self._pieces = self._undo, None, pieces
            for offset, old, stamps in reversed(undo):
                if isinstance(old, int):
                    for piece, at, length in self._parts(offset, old):
                        punch(piece.file, at, length)
                else:
                    done = 0
                    for piece, at, length in self._parts(offset, old_size := len(old)):
                        os.pwrite(piece.file, old[done : done + length], at)
                        done += length
                    assert done == old_size
                first = offset // BLOCK
                self._stamps[first : first + len(stamps)] = stamps

    def open(self) -> "View":
        """The whole disk as one file."""
        return View(self)

    def assemble(self, target: Path) -> Path:
        """Write the disk as one sparse image."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            for piece in self.pieces:
                for begin, length in extents(piece.file, 0, piece.size):
                    copy(piece.file, begin, descriptor, piece.offset + begin, length)
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
        """The pieces that a range lies in, and where in them."""
        assert offset >= 0 and offset + size <= self.size, f"{offset}+{size} is beyond the disk's {self.size} bytes"
        for piece in self.pieces:
            begin, end = max(offset, piece.offset), min(offset + size, piece.end)
            if begin < end:
                yield piece, begin - piece.offset, end - begin


class View(io.RawIOBase):
    """A disk, for what reads files."""

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
        left = max(0, self.disk.size - self.position)
        data = self.disk.read(self.position, left if size < 0 else min(size, left))
        self.position += len(data)
        return data


@dataclass(frozen=True)
class DiskState:
    """A state of the disk. `variant` is 0 at the flush that ends the epoch; else one of the ways to get there.

    `missing` counts the epoch's writes that are not, or not wholly, on the disk.
    """

    epoch: Epoch
    variant: int
    missing: int

    def __str__(self) -> str:
        if not self.variant:
            return f"flush {self.epoch.number} (entry {self.epoch.end})"
        lost = f"{self.missing} of {len(self.epoch.entries)} writes not done"
        return f"before flush {self.epoch.number}, variant {self.variant}: {lost}"


def states(
    log: WriteLog, disk: Disk, *, variants: int = 4, seed: int = 0, epochs: Iterator[Epoch] | None = None
) -> Iterator[DiskState]:
    """Bring `disk` into every state that `log` tells of, one after the other. Each holds until the next is asked for.

    `variants` is how many states are made before each flush, fewer where there is less to be torn.
    """
    for epoch in epochs or log.epochs():
        chance = random.Random(f"{seed}/{epoch.number}")
        for variant in range(1, variants + 1):
            chosen = some(epoch.entries, variant, chance)
            if chosen is None:
                continue
            with disk.tentative():
                for entry, sectors in chosen:
                    apply(log, disk, entry, sectors)
                whole = sum(1 for _, sectors in chosen if sectors is None)
                yield DiskState(epoch, variant, len(epoch.entries) - whole)
        for entry in epoch.entries:
            apply(log, disk, entry)
        yield DiskState(epoch, 0, 0)


Chosen = list[tuple[LoggedWrite, Sequence[int] | None]]


def some(entries: Sequence[LoggedWrite], variant: int, chance: random.Random) -> Chosen | None:
    """A part of `entries`, each with the sectors of it that are done, None for all. None where that is no new state.

    In turn: the first ones, the last of these torn; the first ones in the order of their places on the disk, up or
    down; any of them; all but one.
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
        kept = set(ordered[: chance.randrange(1, len(entries))])
    elif kind == 3:
        kept = {entry for entry in entries if chance.random() < 0.5} or {chance.choice(entries)}
    else:
        kept = set(entries)
    if len(kept) == len(entries):
        kept.remove(entries[chance.randrange(len(entries) - 1)])  # without the last one it would be an earlier cut
    return [(entry, None) for entry in entries if entry in kept]


def apply(log: WriteLog, disk: Disk, entry: LoggedWrite, sectors: Sequence[int] | None = None) -> None:
    """Do what an entry says: all of it, or only some of its sectors."""
    parts = [(0, entry.size)] if sectors is None else [(at * SECTOR, n * SECTOR) for at, n in runs(sectors)]
    for start, size in parts:
        for begin in range(start, start + size, CHUNK):
            length = min(CHUNK, start + size - begin)
            data = None if entry.flags & Flag.DISCARD else log.data(entry, begin, length)
            if data is None or data == ZEROES[:length]:
                disk.zero(entry.offset + begin, length)
            else:
                disk.write(entry.offset + begin, data)


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as (first, count) of those that follow each other."""
    begin = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[begin], place - begin
            begin = place


def extents(file: int, offset: int, size: int) -> list[tuple[int, int]]:
    """Where in a range a file has data: (offset, size) of each part (lseek(2), SEEK_DATA)."""
    found, end = [], offset + size
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
        found.append((begin, offset - begin))
    return found


def copy(source: int, begin: int, target: int, to: int, size: int) -> None:
    """Copy a range between files, sharing it where the file system can."""
    while size:
        done = os.copy_file_range(source, target, size, begin, to)
        assert done, "the file ends early"
        begin, to, size = begin + done, to + done, size - done


def punch(file: int, offset: int, size: int) -> None:
    """Make a range of a file a hole (fallocate(2))."""
    if libc.fallocate(file, PUNCH, ctypes.c_int64(offset), ctypes.c_int64(size)):
        raise OSError(ctypes.get_errno(), "fallocate")
