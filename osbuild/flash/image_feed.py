"""One reading of the image for all targets: chunks go to every writer, and a slow one holds the reader back."""

import hashlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from osbuild.flash.open_target import page_buffer
from osbuild.flash.plan import WritePlan
from osbuild.flash.source import ImageReader, short_image
from osbuild.formats.bmap import Range
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

KEPT = 512  # bytes of the image that are remembered for each place that differs on a card
AHEAD = 3  # chunks in memory: one is written, one read; more of them only leave the processor's cache


class Chunk:
    """Bytes of the image from `offset` on; `release` is called once by each of its users."""

    def __init__(
        self, offset: int, view: memoryview, memory: memoryview, users: int, free: SimpleQueue[memoryview]
    ) -> None:
        self.offset, self.view = offset, view
        self._memory, self._users, self._free, self._lock = memory, users, free, threading.Lock()

    def release(self) -> None:
        """Give the memory back when nobody else reads it."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._free.put(self._memory)


class FeedEnd:
    """After the last chunk; with what went wrong, if there was no last one."""

    def __init__(self, problem: Error | None = None) -> None:
        self.problem = problem


ChunkQueue = SimpleQueue[Chunk | FeedEnd]


class ChecksumThread(threading.Thread):
    """Makes the checksums of parts beside the writing, from (chunk, its bytes) pairs, a `Range` after those of each."""

    def __init__(self, done: list[Range]) -> None:
        super().__init__(name="checksums", daemon=True)
        self.line: SimpleQueue[tuple[Chunk, int] | Range | None] = SimpleQueue()
        self._done = done

    def run(self) -> None:
        digest = hashlib.sha256()
        while (item := self.line.get()) is not None:
            if isinstance(item, Range):
                self._done.append(Range(item.offset, item.size, digest.hexdigest()))
                digest = hashlib.sha256()
            else:
                chunk, count = item
                digest.update(chunk.view[:count])
                chunk.release()


class ImageFeed:
    """Reads for the writers behind `lines`, and keeps the image's bytes, 512 each, at the offsets `wanted`.

    The last chunk is filled up with zeros to whole sectors of `sector` bytes.

    When the writers see the end, `done` has every part with its checksum: that of the block map, or the one made here.
    The map's are not checked against the image now: a card that has them, when it is read back, proves both.
    """

    def __init__(self, plan: WritePlan, lines: Sequence[ChunkQueue], wanted: Sequence[int], *, sector: int) -> None:
        self.plan, self.lines, self.sector = plan, lines, sector
        self.originals: dict[int, bytes] = {}
        self.done: list[Range] = []
        self._checker = ChecksumThread(self.done)
        self._wanted = sorted(set(wanted))
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(AHEAD):
            self._free.put(page_buffer(CHUNK))

    def feed_writers(self, anyone: Callable[[], bool]) -> None:
        """Read everything, while `anyone` still wants it. What is wrong with the image every writer is told."""
        problem: Error | None = None
        self._checker.start()
        try:
            with self.plan.source.reading() as reader:
                for part in self.plan.parts():
                    if not anyone() or not self._part(reader, part):
                        break
        except Error as error:
            problem = error
        finally:
            self._checker.line.put(None)
            self._checker.join()
            for line in self.lines:
                line.put(FeedEnd(problem))

    def _part(self, reader: ImageReader, part: Range) -> bool:
        """Read one part; False at the end of an image whose size was not known."""
        reader.skip_to(part.offset)
        size = 0
        while size < part.size:
            size += (count := self._chunk(reader, part.offset + size, part.end, hashed=not part.digest))
            if not count:
                break
        if size < part.size and self.plan.bmap is not None:
            raise short_image(self.plan.source, self.plan.bmap.size)
        if part.digest:
            self.done.append(part)
        elif size:
            self._checker.line.put(Range(part.offset, size))
        return size == part.size

    def _chunk(self, reader: ImageReader, place: int, end: int, *, hashed: bool) -> int:
        """Read a chunk and hand it on; what belongs to the head stays here, it is written last."""
        head = len(self.plan.head)
        wanted = min(CHUNK, end - place, head - place if place < head else CHUNK)
        memory = self._free.get()
        count = reader.fill(memory[:wanted])
        index = bisect_left(self._wanted, place)
        while index < len(self._wanted) and self._wanted[index] < place + count:
            start = self._wanted[index] - place
            self.originals[self._wanted[index]] = bytes(memory[start : start + KEPT])
            index += 1
        lines = self.lines if place >= head else ()
        users = len(lines) + hashed
        if not count or not users:
            self._free.put(memory)
            return count
        padded = -(-count // self.sector) * self.sector
        memory[count:padded] = bytes(padded - count)
        chunk = Chunk(place, memory[:padded], memory, users, self._free)
        for line in lines:
            line.put(chunk)
        if hashed:
            self._checker.line.put((chunk, count))
        return count
