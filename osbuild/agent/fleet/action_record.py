"""The action that this device carries out, on the data partition: it survives reboots, and the change of the slot."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.shared.files import make_folder, write_file

FOLDER = "/var/lib/edge-fleet"  # of the user edge-fleet; the private key of this device is there too
FILE = f"{FOLDER}/action.json"
TYPES = dict.fromkeys(("action", "order", "stage", "url", "version"), str) | {"only_download": bool}
REQUIRED = ("action", "order", "stage", "url", "version")


class ActionStage(StrEnum):
    """How far this device is. A power cut between two stages repeats the first one."""

    ordered = "ordered"  # and not ended, or not reported yet
    reported = "reported"


@dataclass(frozen=True)
class ActionRecord:
    """An action of the server.

    `order` is a random id of this device. Unlike numbers of actions, it is unique, also after a change of the server,
    or if the server was restored from a backup. With `only_download`, the other slot is written, and not booted next.
    """

    action: str
    order: str
    stage: ActionStage
    url: str
    version: str
    only_download: bool = False


def load_record(system: System) -> ActionRecord | None:
    """Return the stored action; None if there is none, or the file is damaged."""
    row = state_files.read_object(system, FILE, TYPES, REQUIRED, links=False)  # root reads it too
    try:
        names = ("action", "order", "url", "version")
        texts = {name: row[name] for name in names}
        return ActionRecord(stage=ActionStage(row["stage"]), only_download=bool(row.get("only_download")), **texts)
    except (KeyError, ValueError):
        return None


def save_record(system: System, record: ActionRecord) -> None:
    """Store an action. It survives a power cut. Raises `OSError`."""
    path = system.path(FILE)
    make_folder(path.parent, 0o700)
    write_file(path, json.dumps(asdict(record)).encode() + b"\n", 0o600)
