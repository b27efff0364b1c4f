"""The action that this device carries out, on the data partition: it survives reboots, and the change of the slot."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.shared.files import make_folder, write_file

FOLDER = "/var/lib/edge-fleet"  # of the user edge-fleet; the private key of this device is there too
FILE = f"{FOLDER}/action.json"
TYPES = dict.fromkeys(("action", "stage", "url", "version", "since", "problem"), str)
REQUIRED = ("action", "stage", "url", "version")


class ActionStage(StrEnum):
    """How far this device is. A power cut between two stages repeats the first one."""

    ordered = "ordered"  # the installation was ordered
    installed = "installed"  # the other slot is written, and booted next
    ended = "ended"  # the verdict is known, but not reported yet
    reported = "reported"


@dataclass(frozen=True)
class ActionRecord:
    """An action. `since` is when it was ordered, `problem` why it has failed; empty if it has not."""

    action: str
    stage: ActionStage
    url: str
    version: str
    since: str = ""
    problem: str = ""


def load_record(system: System) -> ActionRecord | None:
    """Return the stored action; None if there is none, or the file is damaged."""
    row = state_files.read_object(system, FILE, TYPES, REQUIRED, links=False)  # root reads it too
    try:
        names = ("action", "url", "version", "since", "problem")
        return ActionRecord(stage=ActionStage(row["stage"]), **{name: row.get(name) or "" for name in names})
    except (KeyError, ValueError):
        return None


def save_record(system: System, record: ActionRecord) -> None:
    """Store an action. It survives a power cut. Raises `OSError`."""
    path = system.path(FILE)
    make_folder(path.parent, 0o700)
    write_file(path, json.dumps(asdict(record)).encode() + b"\n", 0o600)
