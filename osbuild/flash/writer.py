"""Writes one target, in an order in which a broken write never boots: the beginning is wiped first and written last."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue

from osbuild.errors import Error
from osbuild.flash.card import Card, buffer, opened
from osbuild.flash.feed import Chunk, End, Feed, Line
from osbuild.flash.mapping import CHUNK
from osbuild.flash.plan import MAGIC, Order
from osbuild.flash.verify import HINT, verify

Report = Callable[[str, int | None, int], None]  # what is being done, bytes of all of it, bytes more that are


ZEROS = bytes(CHUNK)
SAID = 4096  # bytes of the marker that say something


class State(StrEnum):
    """What a target is left as."""

    untouched = "untouched"
    unclear = "unclear"  # may still boot from what was there before, or what is there now
    unfinished = "unfinished"  # does not boot
    done = "done"


@dataclass
class Outcome:
    """What became of a target. Sizes are in bytes: `same` was right already; times are in seconds."""

    order: Order
    state: State = State.untouched
    resumed: bool = False
    written: int = 0
    same: int = 0
    verified: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    problem: Error | None = None


class Interrupted(Error):
    """The user has had enough."""

    status = 130


class Writer(threading.Thread):
    """Takes chunks from `line` until its end; `outcome` is complete when the thread is."""

    def __init__(self, order: Order, stop: threading.Event, report: Report) -> None:
        super().__init__(name=str(order.target.path), daemon=True)
        self.line: Line = SimpleQueue()
        self.outcome = Outcome(order)
        self.feed: Feed | None = None
        self._order, self._halt, self._report = order, stop, report
        self._ended = False

    def run(self) -> None:
        try:
            with opened(self._order.target, self._order.size, private=self._order.node is not None) as card:
                self._all(card)
        except Error as error:
            self.outcome.problem = error
        except Exception as error:  # a defect: the other targets are still worth finishing
            self.outcome.problem = Error(f"{type(error).__name__}: {error}", where=self.name, hint="report this")
        finally:
            while not self._ended:
                self._take(self.line.get())

    def _all(self, card: Card) -> None:
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

        outcome.verified = verify(card, order, self.feed, tick)
        self._head(card)
        outcome.seconds["verify"] = time.monotonic() - begin
        outcome.state = State.done
        card.reread_partitions()

    def _wipe(self, card: Card, marker: bytes) -> None:
        """Make a disk that cannot boot, unless an earlier write of the same image has; finds a card that is dead."""
        said = marker[:SAID]  # the rest is zeros, and written anew in any case
        present = card.read_small(0, len(said)) if self._order.target.exists else b""
        self.outcome.resumed = present == said
        if present.startswith(MAGIC):
            self.outcome.state = State.unfinished
        if not self.outcome.resumed:
            self.outcome.state = State.unclear
            card.write_small(0, marker)
            end = max(len(marker), card.size - len(marker))  # an older table's backup
            card.write_small(end, bytes(card.size - end))
            card.flush()
            if card.read_small(0, len(said)) != said:
                raise Error("what was written at its beginning was lost", where=self.name, hint=HINT)
            self.outcome.state = State.unfinished

    def _chunks(self, card: Card) -> None:
        """Write what comes; where an earlier write stopped, only what is not there yet."""
        bmap = self.feed.plan.bmap if self.feed else None
        what = "continuing" if self.outcome.resumed else "writing"
        fresh = not self._order.target.exists
        mine = buffer(CHUNK)
        while not isinstance(item := self.line.get(), End):
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

    def _head(self, card: Card) -> None:
        """The beginning, and of that the first sector last; a card that loses it is made unbootable again."""
        assert self.feed is not None
        head, first = self._order.head, min(4096, len(self._order.head))
        if len(head) > first:
            card.write_small(first, head[first:])
            card.flush()
        self.outcome.state = State.unclear
        card.write_small(0, head[:first])
        card.flush()
        self.outcome.written += len(head)
        if card.read_small(0, len(head)) != head:
            card.write_small(0, self.feed.plan.marker)
            card.flush()
            raise Error("what was written at its beginning was lost", where=self.name, hint=HINT)

    def _take(self, item: Chunk | End) -> None:
        """Give back what is not needed any more."""
        if isinstance(item, End):
            self._ended = True
        else:
            item.release()

    def _check_stop(self) -> None:
        if self._halt.is_set():
            raise Interrupted("interrupted", where=self.name)
