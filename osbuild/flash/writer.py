"""Writes one target. Its beginning is wiped first and written last, so that an incomplete image never boots."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue

from osbuild.flash.image_feed import Chunk, ChunkQueue, FeedEnd, ImageFeed
from osbuild.flash.open_target import OpenTarget, open_target, page_buffer
from osbuild.flash.plan import MAGIC, TargetOrder
from osbuild.flash.verify import HINT, verify_target
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

WriteProgress = Callable[[str, int | None, int], None]  # step, total bytes of the step, bytes since the last report


ZEROS = bytes(CHUNK)
MARKER_SIZE = 4096  # bytes of the marker that are not zeros


class TargetState(StrEnum):
    """The state in which a target is left."""

    untouched = "untouched"
    unclear = "unclear"  # may boot the old or the new contents
    unfinished = "unfinished"  # does not boot
    done = "done"


@dataclass
class WriteResult:
    """The result for a target. Sizes are in bytes; `same` were not written because they were right already.

    Times are in seconds.
    """

    order: TargetOrder
    state: TargetState = TargetState.untouched
    resumed: bool = False
    written: int = 0
    same: int = 0
    verified: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    problem: Error | None = None


class Interrupted(Error):
    """The user interrupted the command."""

    status = 130


class TargetWriter(threading.Thread):
    """Writes the chunks in `queue` to one target. `outcome` is complete when the thread has ended."""

    def __init__(self, order: TargetOrder, stop: threading.Event, report: WriteProgress) -> None:
        super().__init__(name=str(order.target.path), daemon=True)
        self.queue: ChunkQueue = SimpleQueue()
        self.outcome = WriteResult(order)
        self.feed: ImageFeed | None = None
        self._order, self._halt, self._report = order, stop, report
        self._ended = False

    def run(self) -> None:
        try:
            with open_target(self._order.target, self._order.size, private=self._order.node is not None) as card:
                self._write_all(card)
        except Error as error:
            self.outcome.problem = error
        except Exception as error:  # a defect must not affect the other targets
            self.outcome.problem = Error(f"{type(error).__name__}: {error}", where=self.name, hint="report this bug")
        finally:
            while not self._ended:
                self._discard(self.queue.get())

    def _write_all(self, card: OpenTarget) -> None:
        assert self.feed is not None
        outcome, order = self.outcome, self._order
        self._check_stop()
        begin = time.monotonic()
        self._wipe(card, self.feed.plan.known_markers())
        self._write_chunks(card)
        for offset, data in order.runs():
            card.write_small(offset, data)
            outcome.written += len(data)
        self._report("flushing", None, 0)
        card.flush()
        outcome.seconds["write"] = time.monotonic() - begin
        begin = time.monotonic()
        total = sum(part.size for part in self.feed.done)

        def tick(size: int) -> None:
            self._check_stop()
            self._report("verifying", total, size)

        outcome.verified = verify_target(card, order, self.feed, tick)
        self._write_head(card)
        outcome.seconds["verify"] = time.monotonic() - begin
        outcome.state = TargetState.done
        card.reread_partitions()

    def _wipe(self, card: OpenTarget, markers: Sequence[bytes]) -> None:
        """Make the disk unbootable, unless a write of the same image has. Detects a card that ignores writes.

        The first of `markers` is written, all are recognised.
        """
        marker = markers[0]
        marker_start = marker[:MARKER_SIZE]  # the rest is zeros
        present = card.read_small(0, len(marker_start)) if self._order.target.exists else b""
        self.outcome.resumed = present in [known[:MARKER_SIZE] for known in markers]
        if present.startswith(MAGIC):
            self.outcome.state = TargetState.unfinished
        if not self.outcome.resumed:
            self.outcome.state = TargetState.unclear
            card.write_small(0, marker)
            end = max(len(marker), card.size - len(marker))  # the backup of an older partition table
            card.write_small(end, bytes(card.size - end))
            card.flush()
            if card.read_small(0, len(marker_start)) != marker_start:
                raise Error("data written at the beginning was lost", where=self.name, hint=HINT)
            self.outcome.state = TargetState.unfinished

    def _write_chunks(self, card: OpenTarget) -> None:
        """Write all chunks. After an interrupted write, write only chunks that differ."""
        bmap = self.feed.plan.bmap if self.feed else None
        step = "continuing" if self.outcome.resumed else "writing"
        fresh = not self._order.target.exists
        present = page_buffer(CHUNK)
        while not isinstance(item := self.queue.get(), FeedEnd):
            try:
                self._check_stop()
                size = len(item.view)
                is_same = False
                if self.outcome.resumed:
                    card.read(item.offset, present[:size])
                    is_same = present[:size].tobytes() == item.view.tobytes()
                elif fresh:  # a new file is one hole
                    is_same = item.view.tobytes() == ZEROS[:size]
                if is_same:
                    self.outcome.same += size
                else:
                    card.write(item.offset, item.view)
                    self.outcome.written += size
                self._report(step, bmap.mapped if bmap else None, size)
            finally:
                item.release()
        self._discard(item)
        if item.problem is not None:
            raise item.problem
        self._check_stop()

    def _write_head(self, card: OpenTarget) -> None:
        """Write the beginning, its first sector last. If the card loses it, make the card unbootable again."""
        assert self.feed is not None
        head, first = self._order.head, min(4096, len(self._order.head))
        if len(head) > first:
            card.write_small(first, head[first:])
            card.flush()
        self.outcome.state = TargetState.unclear
        card.write_small(0, head[:first])
        card.flush()
        self.outcome.written += len(head)
        if card.read_small(0, len(head)) != head:
            card.write_small(0, self.feed.plan.marker)
            card.flush()
            raise Error("data written at the beginning was lost", where=self.name, hint=HINT)

    def _discard(self, item: Chunk | FeedEnd) -> None:
        """Release an item of the queue without using it."""
        if isinstance(item, FeedEnd):
            self._ended = True
        else:
            item.release()

    def _check_stop(self) -> None:
        if self._halt.is_set():
            raise Interrupted("interrupted", where=self.name)
