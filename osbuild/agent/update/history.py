"""The history of updates: one line per event."""

from enum import StrEnum
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.agent.update.pending import PendingUpdate, abandoned_update, clear_pending, save_pending

FILE = "history.jsonl"
INTERRUPTED = "interrupted"  # why an installation has failed that SIGINT or SIGTERM has ended
COUNT, SIZE = 200, 256 * 1024
TYPES = {
    **dict.fromkeys(("time", "event", "id", "kind", "origin", "target", "why", "source", "reference"), str),
    **dict.fromkeys(("before", "after", "facts", "cluster"), dict),
}  # fmt: skip


class UpdateEvent(StrEnum):
    """An event of an update. A newer agent may have stored other events; they are shown unchanged."""

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


def append_event(system: System, event: UpdateEvent, update: PendingUpdate | None = None, **details: Any) -> None:
    """Add an event, unless `update` has this event already. Raises `OSError`."""
    # A step that a power cut has interrupted is repeated, but its event must not be.
    row: records.Row = {"time": records.current_time(), "event": event}
    if update:
        row |= {name: getattr(update, name) for name in ("id", "kind", "origin", "target", "before", "after")}
        if update.reference:
            row["reference"] = update.reference
    row |= {name: value for name, value in details.items() if value not in (None, {}, [], "")}
    with records.state_lock(system):
        rows = read_history(system)
        if update and any(other.get("id") == update.id and other.get("event") == event for other in rows):
            return
        records.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def close_pending(system: System, update: PendingUpdate) -> None:
    """Close the pending update. If a manual rollback was meant to end a trial and failed, the trial stays pending."""
    abandoned = abandoned_update(update)
    if abandoned and not any(
        row.get("id") == abandoned.id and row.get("event") == UpdateEvent.rolled_back for row in read_history(system)
    ):
        save_pending(system, abandoned)
    else:
        clear_pending(system)


def read_history(system: System) -> list[records.Row]:
    """All events, the oldest first."""
    return records.read_rows(system, FILE, TYPES)


def last_event(system: System) -> records.Row | None:
    """The last event of any update; None if there is none."""
    return next((row for row in reversed(read_history(system)) if "id" in row), None)


def start_of_last_update(system: System) -> str:
    """The time of the first event of the last update; empty if there was no update."""
    identity = (last_event(system) or {}).get("id")
    return next((str(row.get("time")) for row in read_history(system) if identity and row.get("id") == identity), "")


def event_line(row: records.Row) -> str:
    """An event as one line of text."""
    before, after = records.nested_object(row, "before"), records.nested_object(row, "after")
    columns = [str(row.get("time", "?")), str(row.get("event", "?"))]
    if row.get("id"):
        columns.append(
            f"{before.get('version') or '?'} -> {after.get('version') or '?'} (slot {row.get('target', '?')})"
        )
    text = "  ".join(columns)
    return f"{text}: {row['why']}" if row.get("why") else text
