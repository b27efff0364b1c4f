"""The pending update with its stage, stored in pending.json."""

from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, get_origin

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import records

FILE = "pending.json"
GIVEN_UP = "given_up"  # key in `facts` of a rollback: the update that it ends


class UpdateKind(StrEnum):
    """The kind of a pending update."""

    update = "update"
    rollback = "rollback"  # manual, with `edge-agent rollback`


class UpdateStage(StrEnum):
    """The stage of a pending update."""

    writing = "writing"  # RAUC may be overwriting the slot
    installed = "installed"  # the slot is complete, and the boot loader has not been switched
    switched = "switched"  # the boot loader has been switched, or was about to be


@dataclass(frozen=True)
class PendingUpdate:
    """An update or a manual rollback from slot `origin` to `target`. The names of the fields are keys in pending.json.

    `before` and `after` describe the images: `version`, `kubernetes`. `manifest` is the hash of the bundle manifest.
    `downgrade` means that the signer allows a lower version. `facts` are statistics of the installation, `cluster` the
    results for the cluster. `boot` is the id of the boot that switched, `verdict` the reason of a rollback.
    `reference` is how those who have ordered the update find it again.
    """

    id: str
    kind: UpdateKind
    stage: UpdateStage
    origin: str
    target: str
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    manifest: str = ""
    downgrade: bool = False
    since: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""
    boot: str = ""
    reference: str = ""

    @property
    def title(self) -> str:
        """Version and slot, for messages."""
        return f"{self.after.get('version') or 'the image'} in slot {self.target}"


# As JSON has them: a kind or stage is text.
# The types in JSON, in which a kind or stage is text.
TYPES: dict[str, type] = {
    item.name: str if item.name in ("kind", "stage") else get_origin(item.type) or item.type  # type: ignore[misc]
    for item in fields(PendingUpdate)
}
REQUIRED = [item.name for item in fields(PendingUpdate) if item.default is MISSING and item.default_factory is MISSING]


def load_pending(system: System) -> PendingUpdate | None:
    """The pending update; None if there is none or its record is not valid."""
    row = records.load_object(system, FILE, TYPES, REQUIRED)
    update = parse_pending(row)
    if row and update is None:
        state_files.report_damage(
            system.path(f"{records.FOLDER}/{FILE}"), f"its kind is {row['kind']!r}, its stage {row['stage']!r}"
        )
    return update


def abandoned_update(update: PendingUpdate) -> PendingUpdate | None:
    """The update on trial that a manual rollback ends; None if there is none."""
    row = update.facts.get(GIVEN_UP)
    return parse_pending(row) if isinstance(row, dict) else None


def parse_pending(row: records.Row) -> PendingUpdate | None:
    """Parse a record; None if it is not valid."""
    values: dict[str, Any] = {
        name: value for name, value in row.items() if name in TYPES and isinstance(value, TYPES[name])
    }
    try:
        values |= {"kind": UpdateKind(values["kind"]), "stage": UpdateStage(values["stage"])}
        return PendingUpdate(**values)
    except (KeyError, TypeError, ValueError):
        return None


def save_pending(system: System, update: PendingUpdate) -> None:
    """Store the pending update. Raises `OSError`."""
    # Without a reference, the record is the same as that of earlier versions.
    values = {name: value for name, value in asdict(update).items() if name != "reference" or value}
    records.save_object(system, FILE, values)


def clear_pending(system: System) -> None:
    """Remove the pending update. Raises `OSError`."""
    records.remove_file(system, FILE)
