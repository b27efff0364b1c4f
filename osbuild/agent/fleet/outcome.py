"""How the update for an order has ended: found by root in the history of this device, told to the unprivileged part."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import boot_records, health_verdict, history, kernel_journal
from osbuild.agent.update.history import INTERRUPTED, UpdateEvent
from osbuild.shared.files import make_folder, write_file

FILE = "/run/edge-fleet-outcome/outcome.json"
WRITTEN = "the other slot is written"
TYPES = {"order": str, "success": bool, "details": list}
FAILED = frozenset(
    {
        UpdateEvent.failed, UpdateEvent.rolled_back, UpdateEvent.withdrawn, UpdateEvent.replaced,
        UpdateEvent.not_switched,
    }
)  # fmt: skip


@dataclass(frozen=True)
class UpdateOutcome:
    """The end of the update for `order`. `details` are lines for people: what has failed, if it has."""

    order: str
    success: bool
    details: tuple[str, ...]


def find_outcome(system: System, order: str, *, only_download: bool = False) -> UpdateOutcome | None:
    """Return how the update for an order has ended; None if it has not ended, or never started.

    Only a healthy boot of the new slot is a success: the event `committed`. With `only_download`, a written slot is a
    success. An update that a power cut or a reboot has interrupted is repeated.
    """
    last = last_event(system, order)
    if last.get("event") == UpdateEvent.committed:
        return UpdateOutcome(order, True, (f"{installed_version(last)} is committed",))
    if only_download and last.get("event") == UpdateEvent.installed:
        return UpdateOutcome(order, True, (WRITTEN,))
    if last.get("event") in FAILED and last.get("why") != INTERRUPTED:
        return UpdateOutcome(order, False, tuple(failure_details(system, last)))
    return None


def is_switched(system: System, order: str) -> bool:
    """Whether the update for an order is complete and is tried at the next boot, or was tried already."""
    return last_event(system, order).get("event") in (UpdateEvent.switched, UpdateEvent.committed)


def last_event(system: System, order: str) -> dict[str, Any]:
    """Return the last event of the last update for an order; empty if there is none."""
    rows = history.read_history(system)
    # The agent of an older slot, which records a fallback, may not know references.
    updates = [row.get("id") for row in rows if row.get("reference") == order_reference(order)]
    return next((row for row in reversed(rows) if updates and row.get("id") == updates[-1]), {})


def order_reference(order: str) -> str:
    """Return the reference with which the updates of an order are recorded."""
    return f"order {order}"


def failure_details(system: System, row: dict[str, Any]) -> list[str]:
    """Return lines that say why an update has failed, with the failed health checks and the kernel's last warnings."""
    lines = [f"{row.get('event')}: {row.get('why') or 'no reason is recorded'}"]
    reasons = health_verdict.failure_reasons(health_verdict.read_failed(system))
    if row.get("event") == UpdateEvent.rolled_back and reasons:
        lines.append(f"failed health checks: {reasons}")
    if row.get("event") == UpdateEvent.rolled_back:
        boot = boot_records.last_boot_of(system, str(row.get("target"))) or {}
        if boot.get("version") == installed_version(row):  # otherwise the new version has not reached the agent
            lines += [f"kernel: {line}" for line in kernel_journal.last_warnings(str(boot.get("boot")))]
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


def load_outcome(system: System, order: str) -> UpdateOutcome | None:
    """Return what root has stored about an order; None if it is nothing."""
    row = state_files.read_object(system, FILE, TYPES, tuple(TYPES))
    if row.get("order") != order:
        return None
    return UpdateOutcome(order, row["success"], tuple(str(line) for line in row["details"]))
