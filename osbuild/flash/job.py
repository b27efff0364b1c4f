"""Writes an image to all its targets at the same time; one that fails does not hold up the others."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from osbuild.flash.image_feed import FeedEnd, ImageFeed
from osbuild.flash.plan import TargetOrder, WritePlan
from osbuild.flash.writer import Interrupted, TargetState, TargetWriter, WriteProgress, WriteResult
from osbuild.host import log
from osbuild.shared.errors import Error
from osbuild.shared.quoting import escaped
from osbuild.shared.sizes import format_decimal

AGAIN = "run the same command again: it goes on where it stopped"


def flash_targets(plan: WritePlan, orders: Sequence[TargetOrder]) -> list[WriteResult]:
    """Write, flush and read back. Every outcome says what became of its target; Ctrl-C ends them all, then raises."""
    stop = threading.Event()
    with log.bars() as bars:
        writers = [TargetWriter(order, stop, progress_reporter(bars, order.target.path)) for order in orders]
        sector = max(order.target.device.sector if order.target.device else 512 for order in orders)
        places = [offset for order in orders for offset in order.changes]
        feed = ImageFeed(plan, [writer.line for writer in writers], places, sector=sector)
        try:
            for writer in writers:
                writer.feed = feed
                writer.start()
            feed.feed_writers(lambda: any(writer.outcome.problem is None for writer in writers))
            for writer in writers:
                writer.join()
        except BaseException:  # Ctrl-C, SIGTERM
            stop.set()
            for writer in writers:
                writer.line.put(FeedEnd())
            for writer in writers:
                if writer.is_alive():
                    writer.join()
            print_results([writer.outcome for writer in writers])
            raise
    return [writer.outcome for writer in writers]


def progress_reporter(bars: Progress, path: Path) -> WriteProgress:
    """A bar for one target, anew for each thing that is done to it."""
    task = bars.add_task(escaped(str(path)), total=None)
    shown = ""

    def report(what: str, total: int | None, more: int) -> None:
        nonlocal shown
        if what != shown:
            shown = what
            bars.reset(task, total=total, description=f"{escaped(str(path))}: {what}")
        bars.update(task, advance=more)

    return report


def print_results(outcomes: Sequence[WriteResult]) -> None:
    """What a person has to know of each target."""
    for outcome in outcomes:
        path = outcome.order.target.path
        node = f", node {outcome.order.node}" if outcome.order.node else ""
        if outcome.problem is not None:
            log.error(outcome.problem)
        if outcome.state is TargetState.done:
            rate = outcome.written / max(outcome.seconds["write"], 0.001)
            kept = "were there already" if outcome.order.target.exists else "are zeros, left as holes"
            same = f", {format_decimal(outcome.same)} {kept}" if outcome.same else ""
            log.note(
                f"{path}{node}: done. {format_decimal(outcome.written)} written in {outcome.seconds['write']:.1f} s "
                f"({format_decimal(rate)}/s){same}; all of it read back in {outcome.seconds['verify']:.1f} s"
            )
        elif outcome.state is TargetState.untouched:
            log.note(f"{path}: not written to")
        elif outcome.state is TargetState.unclear:
            log.note(f"{path}: UNFINISHED, and it is not certain that its beginning was wiped: do not boot from it")
        else:
            more = f". To finish it, {AGAIN}" if isinstance(outcome.problem, Interrupted) else ""
            log.note(f"{path}: UNFINISHED, it does not boot{more}")


def results_json(plan: WritePlan, outcomes: Sequence[WriteResult]) -> Mapping[str, Any]:
    """Everything as JSON can write it: sizes in bytes, times in seconds."""

    def one(outcome: WriteResult) -> dict[str, Any]:
        problem: Error | None = outcome.problem
        device = outcome.order.target.device
        return {
            "target": str(outcome.order.target.path), "device": device.name if device else None,
            "model": device.model if device else None, "size": outcome.order.size, "node": outcome.order.node,
            "state": outcome.state.value, "resumed": outcome.resumed, "written": outcome.written,
            "same": outcome.same, "verified": outcome.verified,
            "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
            "error": {"message": problem.message, "hint": problem.hint} if problem else None,
        }  # fmt: skip

    return {
        "image": str(plan.source.path), "size": plan.size, "mapped": plan.bmap.mapped if plan.bmap else None,
        "targets": [one(outcome) for outcome in outcomes],
    }  # fmt: skip
