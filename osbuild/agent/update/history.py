"""What became of updates, one line an event."""

from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import state
from osbuild.agent.update.pending import Pending, clear, given_up, save

FILE = "history.jsonl"
COUNT, SIZE = 200, 256 * 1024
TYPES = {
    **dict.fromkeys(("time", "event", "id", "kind", "origin", "target", "why", "source"), str),
    **dict.fromkeys(("before", "after", "facts", "cluster"), dict),
}  # fmt: skip


def append(system: System, event: str, pending: Pending | None = None, **facts: Any) -> None:
    """Add an event; one that this update has already is not added twice. Raises `OSError`.

    A step that a power cut interrupted is done again after it, and so would its line be written again.
    """
    row: state.Row = {"time": state.now(), "event": event}
    if pending:
        row |= {name: getattr(pending, name) for name in ("id", "kind", "origin", "target", "before", "after")}
    row |= {name: value for name, value in facts.items() if value not in (None, {}, [], "")}
    with state.locked(system):
        rows = read(system)
        if pending and any(old.get("id") == pending.id and old.get("event") == event for old in rows):
            return
        state.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def over(system: System, found: Pending) -> None:
    """Nothing is under way any more, but the update on trial that a rollback by hand was to end and has not ended."""
    gone = given_up(found)
    if gone and not any(row.get("id") == gone.id and row.get("event") == "rolled-back" for row in read(system)):
        save(system, gone)
    else:
        clear(system)


def read(system: System) -> list[state.Row]:
    """All events, the oldest first."""
    return state.rows(system, FILE, TYPES)


def last(system: System) -> state.Row | None:
    """The last event of an update."""
    return next((row for row in reversed(read(system)) if "id" in row), None)


def begun(system: System) -> str:
    """When the last update began: the time of its first event, empty where there was none."""
    identity = (last(system) or {}).get("id")
    return next((str(row.get("time")) for row in read(system) if identity and row.get("id") == identity), "")


def line(row: state.Row) -> str:
    """An event for people."""
    before, after = state.part(row, "before"), state.part(row, "after")
    words = [str(row.get("time", "?")), str(row.get("event", "?"))]
    if row.get("id"):
        words.append(f"{before.get('version') or '?'} -> {after.get('version') or '?'} (slot {row.get('target', '?')})")
    text = "  ".join(words)
    return f"{text}: {row['why']}" if row.get("why") else text
