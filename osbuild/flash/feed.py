"""One reading of the image for all targets: chunks go to every writer, and a slow one holds the reader back."""

import hashlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from osbuild.errors import Error
from osbuild.flash.bmap import Range
from osbuild.flash.card import buffer
from osbuild.flash.mapping import CHUNK
from osbuild.flash.plan import Plan
from osbuild.flash.source import Reader, short

AHEAD = 8  # chunks that are read before the first of them is written


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
            self.view.release()
            self._free.put(self._memory)


class End:
    """After the last chunk; with what went wrong, if there was no last one."""

    def __init__(self, problem: Error | None = None) -> None:
        self.problem = problem


Line = SimpleQueue[Chunk | End]


class Feed:
    """`done` are the parts read so far with their checksums, `originals` the image's bytes at the offsets `wanted`."""

    def __init__(self, plan: Plan, lines: Sequence[Line], wanted: Sequence[int], sector: int = 512) -> None:
        self.plan, self.lines, self.sector = plan, lines, sector
        self.done: list[Range] = []
        self.originals: dict[int, bytes] = {}
        self._wanted = sorted(set(wanted))
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(AHEAD):
            self._free.put(buffer(CHUNK))

    def run(self, anyone: Callable[[], bool]) -> None:
        """Read everything, while `anyone` still wants it. What is wrong with the image every writer is told."""
        problem: Error | None = None
        try:
            with self.plan.source.reading() as reader:
                for part in self.plan.parts():
                    if not anyone() or not self._part(reader, part):
                        break
        except Error as error:
            problem = error
        finally:
            for line in self.lines:
                line.put(End(problem))

    def _part(self, reader: Reader, part: Range) -> bool:
        """Read one part and check it; False at the end of an image whose size was not known."""
        bmap = self.plan.bmap
        digest = hashlib.new(bmap.algorithm if bmap else "sha256")
        reader.go(part.offset)
        size = 0
        while size < part.size:
            size += (count := self._chunk(reader, part.offset + size, part.end, digest))
            if not count:
                break
        if size < part.size and bmap is not None:
            raise short(self.plan.source, bmap.size)
        found = digest.hexdigest()
        if part.digest and found != part.digest:
            raise Error(
                f"the image is not the one that its block map is of: bytes {part.offset} to {part.end} differ",
                where=str(self.plan.source.path),
                hint="get both again from the same build, or write without the map: --no-bmap",
            )
        if size:
            self.done.append(Range(part.offset, size, found))
        return size == part.size

    def _chunk(self, reader: Reader, place: int, end: int, digest: "hashlib._Hash") -> int:
        """Read a chunk and hand it on; what belongs to the head stays here, it is written last."""
        head = len(self.plan.head)
        wanted = min(CHUNK, end - place, head - place if place < head else CHUNK)
        memory = self._free.get()
        view = memory[:]
        count = reader.fill(view[:wanted])
        digest.update(view[:count])
        index = bisect_left(self._wanted, place)
        while index < len(self._wanted) and self._wanted[index] < place + count:
            start = self._wanted[index] - place
            self.originals[self._wanted[index]] = bytes(view[start : start + self.sector])
            index += 1
        if place < head or not count:
            view.release()
            self._free.put(memory)
            return count
        padded = -(-count // self.sector) * self.sector
        view[count:padded] = bytes(padded - count)
        chunk = Chunk(place, view[:padded], memory, len(self.lines), self._free)
        for line in self.lines:
            line.put(chunk)
        return count
