"""Writes an image to all targets in parallel. A target that fails does not affect the others."""

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

AGAIN = "run the same command again: it continues where it stopped"


def flash_targets(plan: WritePlan, orders: Sequence[TargetOrder]) -> list[WriteResult]:
    """Write, flush and verify all targets, and return a result for each. Ctrl-C ends all writers, then raises."""
    stop = threading.Event()
    with log.bars() as bars:
        writers = [TargetWriter(order, stop, progress_reporter(bars, order.target.path)) for order in orders]
        sector = max(order.target.device.sector if order.target.device else 512 for order in orders)
        offsets = [offset for order in orders for offset in order.changes]
        feed = ImageFeed(plan, [writer.queue for writer in writers], offsets, sector=sector)
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
                writer.queue.put(FeedEnd())
            for writer in writers:
                if writer.is_alive():
                    writer.join()
            print_results([writer.outcome for writer in writers])
            raise
    return [writer.outcome for writer in writers]


def progress_reporter(bars: Progress, path: Path) -> WriteProgress:
    """Return a function that reports progress of one target. Each step restarts its bar."""
    task = bars.add_task(escaped(str(path)), total=None)
    current = ""

    def report(step: str, total: int | None, advance: int) -> None:
        nonlocal current
        if step != current:
            current = step
            bars.reset(task, total=total, description=f"{escaped(str(path))}: {step}")
        bars.update(task, advance=advance)

    return report


def print_results(outcomes: Sequence[WriteResult]) -> None:
    """Print the result of each target."""
    for outcome in outcomes:
        path = outcome.order.target.path
        node = f", node {outcome.order.node}" if outcome.order.node else ""
        if outcome.problem is not None:
            log.error(outcome.problem)
        if outcome.state is TargetState.done:
            rate = outcome.written / max(outcome.seconds["write"], 0.001)
            reason = "already up to date, skipped" if outcome.order.target.exists else "of zeros, left as holes"
            same = f", {format_decimal(outcome.same)} {reason}" if outcome.same else ""
            log.note(
                f"{path}{node}: done. {format_decimal(outcome.written)} written in {outcome.seconds['write']:.1f} s "
                f"({format_decimal(rate)}/s){same}; verified in {outcome.seconds['verify']:.1f} s"
            )
        elif outcome.state is TargetState.untouched:
            log.note(f"{path}: not changed")
        elif outcome.state is TargetState.unclear:
            log.note(
                f"{path}: UNFINISHED, and its beginning was possibly not wiped, so it might "
                "still boot: do not boot from it"
            )
        else:
            hint = f". To finish it, {AGAIN}" if isinstance(outcome.problem, Interrupted) else ""
            log.note(f"{path}: UNFINISHED, it does not boot{hint}")


def results_json(plan: WritePlan, outcomes: Sequence[WriteResult]) -> Mapping[str, Any]:
    """Return the results as JSON values, with sizes in bytes and times in seconds."""

    def target_json(outcome: WriteResult) -> dict[str, Any]:
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
        "targets": [target_json(outcome) for outcome in outcomes],
    }  # fmt: skip
