"""Reads the image once for all targets. Each chunk is queued for every writer; the slowest one limits the reader."""

import hashlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from osbuild.flash.open_target import page_buffer
from osbuild.flash.plan import WritePlan
from osbuild.formats.bmap import Range
from osbuild.formats.image_source import ImageReader, short_image
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

ORIGINAL_SIZE = 512  # bytes of the image that are kept for each offset that differs on a target
BUFFERS = 3  # chunks in memory: one is written while the next is read; more would not fit the processor's cache


class Chunk:
    """Bytes of the image at `offset`. Each of its users calls `release` once."""

    def __init__(
        self, offset: int, view: memoryview, memory: memoryview, users: int, free: SimpleQueue[memoryview]
    ) -> None:
        self.offset, self.view = offset, view
        self._memory, self._users, self._free, self._lock = memory, users, free, threading.Lock()

    def release(self) -> None:
        """Return the memory to the reader after the last user has released it."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._free.put(self._memory)


class FeedEnd:
    """Marks the end of the queue, with the problem if the image could not be read to its end."""

    def __init__(self, problem: Error | None = None) -> None:
        self.problem = problem


ChunkQueue = SimpleQueue[Chunk | FeedEnd]


class ChecksumThread(threading.Thread):
    """Computes checksums of parts in parallel. Its queue gets (chunk, bytes) pairs, and a `Range` after each part."""

    def __init__(self, done: list[Range]) -> None:
        super().__init__(name="checksums", daemon=True)
        self.queue: SimpleQueue[tuple[Chunk, int] | Range | None] = SimpleQueue()
        self._done = done

    def run(self) -> None:
        digest = hashlib.sha256()
        while (item := self.queue.get()) is not None:
            if isinstance(item, Range):
                self._done.append(Range(item.offset, item.size, digest.hexdigest()))
                digest = hashlib.sha256()
            else:
                chunk, count = item
                digest.update(chunk.view[:count])
                chunk.release()


class ImageFeed:
    """Reads for the writers behind `queues`, and stores the image's original bytes, 512 each, at `offsets`.

    The last chunk is padded with zeros to whole sectors of `sector` bytes. After the end, `done` has every part with
    its checksum, from the block map or computed here.
    """

    # Checksums of the block map are not compared with the image here: reading them back from a target verifies both.

    def __init__(self, plan: WritePlan, queues: Sequence[ChunkQueue], offsets: Sequence[int], *, sector: int) -> None:
        self.plan, self.queues, self.sector = plan, queues, sector
        self.originals: dict[int, bytes] = {}
        self.done: list[Range] = []
        self._checker = ChecksumThread(self.done)
        self._offsets = sorted(set(offsets))
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(page_buffer(CHUNK))

    def feed_writers(self, is_needed: Callable[[], bool]) -> None:
        """Read the image to its end, or until `is_needed` returns False. Every writer gets an error of the image."""
        problem: Error | None = None
        self._checker.start()
        try:
            with self.plan.source.reading() as reader:
                for part in self.plan.parts():
                    if not is_needed() or not self._part(reader, part):
                        break
        except Error as error:
            problem = error
        finally:
            self._checker.queue.put(None)
            self._checker.join()
            for queue in self.queues:
                queue.put(FeedEnd(problem))

    def _part(self, reader: ImageReader, part: Range) -> bool:
        """Read one part. Returns False at the end of an image of unknown size."""
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
            self._checker.queue.put(Range(part.offset, size))
        return size == part.size

    def _chunk(self, reader: ImageReader, offset: int, end: int, *, hashed: bool) -> int:
        """Read a chunk and queue it, except the image's beginning, which is written last. Returns the bytes read."""
        head = len(self.plan.head)
        size = min(CHUNK, end - offset, head - offset if offset < head else CHUNK)
        memory = self._free.get()
        count = reader.fill(memory[:size])
        index = bisect_left(self._offsets, offset)
        while index < len(self._offsets) and self._offsets[index] < offset + count:
            start = self._offsets[index] - offset
            self.originals[self._offsets[index]] = bytes(memory[start : start + ORIGINAL_SIZE])
            index += 1
        queues = self.queues if offset >= head else ()
        users = len(queues) + hashed
        if not count or not users:
            self._free.put(memory)
            return count
        padded = -(-count // self.sector) * self.sector
        memory[count:padded] = bytes(padded - count)
        chunk = Chunk(offset, memory[:padded], memory, users, self._free)
        for queue in queues:
            queue.put(chunk)
        if hashed:
            self._checker.queue.put((chunk, count))
        return count
