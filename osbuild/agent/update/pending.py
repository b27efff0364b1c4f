"""The update that is under way: what it is, and how far it got."""

from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, get_origin

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import records

FILE = "pending.json"
GIVEN_UP = "given_up"  # among the facts of a rollback: the update that it ends


class UpdateKind(StrEnum):
    """What is under way."""

    update = "update"
    rollback = "rollback"  # by hand


class UpdateStage(StrEnum):
    """How far it is."""

    writing = "writing"  # RAUC may be overwriting the slot
    installed = "installed"  # the slot is whole, and the boot loader does not know of it
    switched = "switched"  # the boot loader has been told, or was just going to be


@dataclass(frozen=True)
class PendingUpdate:
    """An update, or a rollback by hand, from slot `origin` to `target`.

    `before` and `after` say what runs there: `version`, `kubernetes`. `manifest` is the bundle's hash. `downgrade`: the
    bundle's signer allows to go back. `facts` is what the installation said, `cluster` what leaving the cluster said.
    `boot` is the boot in which the boot loader was told, `verdict` why it is being given up, once that is known.
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

    @property
    def title(self) -> str:
        """For people: what is to run where."""
        return f"{self.after.get('version') or 'the image'} in slot {self.target}"


# As JSON has them: a kind or stage is text.
TYPES: dict[str, type] = {
    item.name: str if item.name in ("kind", "stage") else get_origin(item.type) or item.type  # type: ignore[misc]
    for item in fields(PendingUpdate)
}
REQUIRED = [item.name for item in fields(PendingUpdate) if item.default is MISSING and item.default_factory is MISSING]


def load_pending(system: System) -> PendingUpdate | None:
    """The update that is under way; None where there is none, or what is written there makes no sense."""
    found = records.load_object(system, FILE, TYPES, REQUIRED)
    update = parse_pending(found)
    if found and update is None:
        state_files.report_damage(
            system.path(f"{records.FOLDER}/{FILE}"), f"it is the {found['kind']!r} at the stage {found['stage']!r}"
        )
    return update


def abandoned_update(update: PendingUpdate) -> PendingUpdate | None:
    """The update on trial that a rollback by hand is to end."""
    known = update.facts.get(GIVEN_UP)
    return parse_pending(known) if isinstance(known, dict) else None


def parse_pending(found: records.Row) -> PendingUpdate | None:
    """None for what makes no sense."""
    values: dict[str, Any] = {
        name: value for name, value in found.items() if name in TYPES and isinstance(value, TYPES[name])
    }
    try:
        values |= {"kind": UpdateKind(values["kind"]), "stage": UpdateStage(values["stage"])}
        return PendingUpdate(**values)
    except (KeyError, TypeError, ValueError):
        return None


def save_pending(system: System, pending: PendingUpdate) -> None:
    """Raises `OSError`."""
    records.save_object(system, FILE, asdict(pending))


def clear_pending(system: System) -> None:
    """No update is under way any more. Raises `OSError`."""
    records.remove_file(system, FILE)
