"""Writes one target, in an order in which a broken write never boots: the beginning is wiped first and written last."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue

from osbuild.flash.image_feed import Chunk, ChunkQueue, FeedEnd, ImageFeed
from osbuild.flash.open_target import OpenTarget, open_target, page_buffer
from osbuild.flash.plan import MAGIC, TargetOrder
from osbuild.flash.verify import HINT, verify_target
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

WriteProgress = Callable[[str, int | None, int], None]  # what is being done, bytes of all of it, bytes more that are


ZEROS = bytes(CHUNK)
SAID = 4096  # bytes of the marker that say something


class TargetState(StrEnum):
    """What a target is left as."""

    untouched = "untouched"
    unclear = "unclear"  # may still boot from what was there before, or what is there now
    unfinished = "unfinished"  # does not boot
    done = "done"


@dataclass
class WriteResult:
    """What became of a target. Sizes are in bytes: `same` was right already; times are in seconds."""

    order: TargetOrder
    state: TargetState = TargetState.untouched
    resumed: bool = False
    written: int = 0
    same: int = 0
    verified: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    problem: Error | None = None


class Interrupted(Error):
    """The user has had enough."""

    status = 130


class TargetWriter(threading.Thread):
    """Takes chunks from `line` until its end; `outcome` is complete when the thread is."""

    def __init__(self, order: TargetOrder, stop: threading.Event, report: WriteProgress) -> None:
        super().__init__(name=str(order.target.path), daemon=True)
        self.line: ChunkQueue = SimpleQueue()
        self.outcome = WriteResult(order)
        self.feed: ImageFeed | None = None
        self._order, self._halt, self._report = order, stop, report
        self._ended = False

    def run(self) -> None:
        try:
            with open_target(self._order.target, self._order.size, private=self._order.node is not None) as card:
                self._all(card)
        except Error as error:
            self.outcome.problem = error
        except Exception as error:  # a defect: the other targets are still worth finishing
            self.outcome.problem = Error(f"{type(error).__name__}: {error}", where=self.name, hint="report this")
        finally:
            while not self._ended:
                self._take(self.line.get())

    def _all(self, card: OpenTarget) -> None:
        assert self.feed is not None
        outcome, order = self.outcome, self._order
        self._check_stop()
        begin = time.monotonic()
        self._wipe(card, self.feed.plan.marker)
        self._chunks(card)
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
            self._report("reading back", total, size)

        outcome.verified = verify_target(card, order, self.feed, tick)
        self._head(card)
        outcome.seconds["verify"] = time.monotonic() - begin
        outcome.state = TargetState.done
        card.reread_partitions()

    def _wipe(self, card: OpenTarget, marker: bytes) -> None:
        """Make a disk that cannot boot, unless an earlier write of the same image has; finds a card that is dead."""
        said = marker[:SAID]  # the rest is zeros, and written anew in any case
        present = card.read_small(0, len(said)) if self._order.target.exists else b""
        self.outcome.resumed = present == said
        if present.startswith(MAGIC):
            self.outcome.state = TargetState.unfinished
        if not self.outcome.resumed:
            self.outcome.state = TargetState.unclear
            card.write_small(0, marker)
            end = max(len(marker), card.size - len(marker))  # an older table's backup
            card.write_small(end, bytes(card.size - end))
            card.flush()
            if card.read_small(0, len(said)) != said:
                raise Error("what was written at its beginning was lost", where=self.name, hint=HINT)
            self.outcome.state = TargetState.unfinished

    def _chunks(self, card: OpenTarget) -> None:
        """Write what comes; where an earlier write stopped, only what is not there yet."""
        bmap = self.feed.plan.bmap if self.feed else None
        what = "continuing" if self.outcome.resumed else "writing"
        fresh = not self._order.target.exists
        mine = page_buffer(CHUNK)
        while not isinstance(item := self.line.get(), FeedEnd):
            try:
                self._check_stop()
                size = len(item.view)
                there = False
                if self.outcome.resumed:
                    card.read(item.offset, mine[:size])
                    there = mine[:size].tobytes() == item.view.tobytes()
                elif fresh:  # a new file is all holes
                    there = item.view.tobytes() == ZEROS[:size]
                if there:
                    self.outcome.same += size
                else:
                    card.write(item.offset, item.view)
                    self.outcome.written += size
                self._report(what, bmap.mapped if bmap else None, size)
            finally:
                item.release()
        self._take(item)
        if item.problem is not None:
            raise item.problem
        self._check_stop()

    def _head(self, card: OpenTarget) -> None:
        """The beginning, and of that the first sector last; a card that loses it is made unbootable again."""
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
            raise Error("what was written at its beginning was lost", where=self.name, hint=HINT)

    def _take(self, item: Chunk | FeedEnd) -> None:
        """Give back what is not needed any more."""
        if isinstance(item, FeedEnd):
            self._ended = True
        else:
            item.release()

    def _check_stop(self) -> None:
        if self._halt.is_set():
            raise Interrupted("interrupted", where=self.name)
