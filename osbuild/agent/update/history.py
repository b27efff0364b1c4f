"""What became of updates, one line an event."""

from enum import StrEnum
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.agent.update.pending import PendingUpdate, abandoned_update, clear_pending, save_pending

FILE = "history.jsonl"
COUNT, SIZE = 200, 256 * 1024
TYPES = {
    **dict.fromkeys(("time", "event", "id", "kind", "origin", "target", "why", "source"), str),
    **dict.fromkeys(("before", "after", "facts", "cluster"), dict),
}  # fmt: skip


class UpdateEvent(StrEnum):
    """What happened to an update. A newer agent may have written others, which are shown as they are."""

    started = "started"
    installed = "installed"
    replaced = "replaced"
    failed = "failed"
    switched = "switched"
    not_switched = "not-switched"
    withdrawn = "withdrawn"
    interrupted = "interrupted"
    rolled_back = "rolled-back"
    committed = "committed"
    cluster = "cluster"


def append_event(system: System, event: UpdateEvent, pending: PendingUpdate | None = None, **facts: Any) -> None:
    """Add an event; one that this update has already is not added twice. Raises `OSError`.

    A step that a power cut interrupted is done again after it, and so would its line be written again.
    """
    row: records.Row = {"time": records.current_time(), "event": event}
    if pending:
        row |= {name: getattr(pending, name) for name in ("id", "kind", "origin", "target", "before", "after")}
    row |= {name: value for name, value in facts.items() if value not in (None, {}, [], "")}
    with records.state_lock(system):
        rows = read_history(system)
        if pending and any(old.get("id") == pending.id and old.get("event") == event for old in rows):
            return
        records.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def close_pending(system: System, update: PendingUpdate) -> None:
    """Nothing is under way any more, but the update on trial that a rollback by hand was to end and has not ended."""
    gone = abandoned_update(update)
    if gone and not any(
        row.get("id") == gone.id and row.get("event") == UpdateEvent.rolled_back for row in read_history(system)
    ):
        save_pending(system, gone)
    else:
        clear_pending(system)


def read_history(system: System) -> list[records.Row]:
    """All events, the oldest first."""
    return records.read_rows(system, FILE, TYPES)


def last_event(system: System) -> records.Row | None:
    """The last event of an update."""
    return next((row for row in reversed(read_history(system)) if "id" in row), None)


def begin_of_last(system: System) -> str:
    """When the last update began: the time of its first event, empty where there was none."""
    identity = (last_event(system) or {}).get("id")
    return next((str(row.get("time")) for row in read_history(system) if identity and row.get("id") == identity), "")


def event_line(row: records.Row) -> str:
    """An event for people."""
    before, after = records.object_below(row, "before"), records.object_below(row, "after")
    arguments = [str(row.get("time", "?")), str(row.get("event", "?"))]
    if row.get("id"):
        arguments.append(
            f"{before.get('version') or '?'} -> {after.get('version') or '?'} (slot {row.get('target', '?')})"
        )
    text = "  ".join(arguments)
    return f"{text}: {row['why']}" if row.get("why") else text
