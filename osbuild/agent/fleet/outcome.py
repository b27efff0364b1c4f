"""How the update of an action has ended: found by root in the history of this device, told to the unprivileged part."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import health_verdict, history
from osbuild.agent.update.history import UpdateEvent
from osbuild.shared.files import make_folder, write_file

FILE = "/run/edge-fleet-outcome/outcome.json"
TYPES = {"action": str, "success": bool, "details": list}
FAILED = frozenset(
    {
        UpdateEvent.failed, UpdateEvent.rolled_back, UpdateEvent.withdrawn, UpdateEvent.replaced,
        UpdateEvent.not_switched,
    }
)  # fmt: skip


@dataclass(frozen=True)
class UpdateOutcome:
    """The end of the update for `action`. `details` are lines for people: what has failed, if it has."""

    action: str
    success: bool
    details: tuple[str, ...]


def find_outcome(system: System, action: str) -> UpdateOutcome | None:
    """Return how the update for an action has ended; None if it has not ended, or never started.

    Only a healthy boot of the new slot is a success: the event `committed`. An update that a power cut has interrupted
    is repeated.
    """
    last = last_event(system, action)
    if last.get("event") == UpdateEvent.committed:
        return UpdateOutcome(action, True, (f"{installed_version(last)} is committed",))
    if last.get("event") in FAILED:
        return UpdateOutcome(action, False, tuple(failure_details(system, last)))
    return None


def is_switched(system: System, action: str) -> bool:
    """Whether the update for an action is complete and is tried at the next boot, or was tried already."""
    return last_event(system, action).get("event") in (UpdateEvent.switched, UpdateEvent.committed)


def last_event(system: System, action: str) -> dict[str, Any]:
    """Return the last event of the last update for an action; empty if there is none."""
    rows = history.read_history(system)
    # The agent of an older slot, which records a fallback, may not know references.
    updates = [row.get("id") for row in rows if row.get("reference") == action_reference(action)]
    return next((row for row in reversed(rows) if updates and row.get("id") == updates[-1]), {})


def action_reference(action: str) -> str:
    """Return the reference with which the updates of an action are recorded."""
    return f"action {action}"


def failure_details(system: System, row: dict[str, Any]) -> list[str]:
    """Return lines that say why an update has failed, with the failed health checks."""
    lines = [f"{row.get('event')}: {row.get('why') or 'no reason is recorded'}"]
    reasons = health_verdict.failure_reasons(health_verdict.read_failed(system))
    if row.get("event") == UpdateEvent.rolled_back and reasons:
        lines.append(f"failed health checks: {reasons}")
    return lines


def installed_version(row: dict[str, Any]) -> str:
    """Return the version that an update has installed."""
    after = row.get("after")
    return str(after.get("version", "?")) if isinstance(after, dict) else "?"


def store_outcome(system: System, outcome: UpdateOutcome) -> None:
    """Tell the unprivileged part how an update has ended. Raises `OSError`."""
    path = system.path(FILE)
    make_folder(path.parent, 0o755)
    write_file(path, json.dumps(asdict(outcome)).encode() + b"\n", 0o644)


def load_outcome(system: System, action: str) -> UpdateOutcome | None:
    """Return what root has stored about an action; None if it is nothing."""
    row = state_files.read_object(system, FILE, TYPES, tuple(TYPES))
    if row.get("action") != action:
        return None
    return UpdateOutcome(action, row["success"], tuple(str(line) for line in row["details"]))
