"""The files that store updates on the data partition. They are replaced atomically, and may be damaged.

The agents of both slots, an older and a newer one, read and write them, so unknown fields are kept or ignored.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osbuild.agent import state_files
from osbuild.agent.state_files import Types
from osbuild.agent.system import System
from osbuild.shared.files import clear_way, make_folder, sync_path, write_file
from osbuild.shared.locks import hold_file_lock

FOLDER = "/var/lib/edge-osbuild/update"
Row = state_files.Row
DOWNLOAD = ("download.json", "download.raucb")  # used by `osbuild.agent.update.download`, which is slow to import


def state_path(system: System, name: str) -> Path:
    """The path of the file `name`. Creates its folder if needed. Raises `OSError`."""
    folder = system.path(FOLDER)
    make_folder(folder, 0o700)
    return folder / name


def load_object(system: System, name: str, types: Types | None = None, required: Sequence[str] = ()) -> Row:
    """A JSON object; empty if it is missing or damaged. See `osbuild.agent.state_files.read_object`."""
    return state_files.read_object(system, f"{FOLDER}/{name}", types, required)


def save_object(system: System, name: str, value: Mapping[str, Any]) -> None:
    """Replace an object. Raises `OSError`."""
    write_file(state_path(system, name), json.dumps(value, indent=1).encode() + b"\n", 0o600)


def remove_file(system: System, name: str) -> None:
    """Remove a file if it exists. Raises `OSError`."""
    path = state_path(system, name)
    clear_way(path)
    path.unlink(missing_ok=True)
    sync_path(path.parent)


def nested_object(row: Row, name: str) -> Row:
    """An object within an object; empty if there is none."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def discard_download(system: System) -> None:
    """Remove a partly or fully downloaded bundle, if there is one. Raises `OSError`."""
    for name in DOWNLOAD:
        if os.path.lexists(state_path(system, name)):
            remove_file(system, name)


def read_rows(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one object per line. See `osbuild.agent.state_files.read_lines`."""
    return state_files.read_lines(system, f"{FOLDER}/{name}", types)


def save_rows(system: System, name: str, rows: Sequence[Row], *, count: int, size: int) -> None:
    """Store the last `count` rows, or fewer if they have more than `size` bytes. Raises `OSError`."""
    lines = [json.dumps(row).encode() + b"\n" for row in rows[-count:]]
    while len(lines) > 1 and sum(map(len, lines)) > size:
        del lines[0]
    write_file(state_path(system, name), b"".join(lines), 0o600)


def state_lock(system: System) -> AbstractContextManager[None]:
    """Lock the folder for a read-modify-write. Other processes wait. Raises `OSError`."""
    return hold_file_lock(state_path(system, ""))


def current_time() -> str:
    """The time of this device in ISO 8601, UTC. The clock may not have been set."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_boot_id(system: System) -> str:
    """The boot id of the kernel (random(4)); empty if it cannot be read."""
    return system.text("/proc/sys/kernel/random/boot_id").strip()
