"""The files in which updates are kept over a boot: whole or not there at all, and never trusted to be right.

Both slots' agents read and write them, an older and a newer one, so what is not known is left alone or left out.
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
from osbuild.shared.locks import lock_path

FOLDER = "/var/lib/edge-osbuild/update"
Row = state_files.Row
DOWNLOAD = ("download.json", "download.raucb")  # see `osbuild.agent.update.download`, which is slow to import


def state_path(system: System, name: str) -> Path:
    """The file `name`, in a folder that is made where it is missing. Raises `OSError`."""
    folder = system.path(FOLDER)
    make_folder(folder, 0o700)
    return folder / name


def load_object(system: System, name: str, types: Types | None = None, required: Sequence[str] = ()) -> Row:
    """An object; empty where there is none. See `osbuild.agent.state_files.row`."""
    return state_files.read_object(system, f"{FOLDER}/{name}", types, required)


def save_object(system: System, name: str, value: Mapping[str, Any]) -> None:
    """Replace an object. Raises `OSError`."""
    write_file(state_path(system, name), json.dumps(value, indent=1).encode() + b"\n", 0o600)


def remove_file(system: System, name: str) -> None:
    """Raises `OSError`; a file that is not there is fine."""
    path = state_path(system, name)
    clear_way(path)
    path.unlink(missing_ok=True)
    sync_path(path.parent)


def object_below(row: Row, name: str) -> Row:
    """An object within an object; empty where there is none."""
    found = row.get(name)
    return found if isinstance(found, dict) else {}


def discard_download(system: System) -> None:
    """Throw away what was fetched of a bundle, where there is something. Raises `OSError`."""
    for name in DOWNLOAD:
        if os.path.lexists(state_path(system, name)):
            remove_file(system, name)


def read_rows(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one a line, the oldest first. See `osbuild.agent.state_files.rows`."""
    return state_files.read_lines(system, f"{FOLDER}/{name}", types)


def save_rows(system: System, name: str, found: Sequence[Row], *, count: int, size: int) -> None:
    """Replace such a file with the last `count` rows, fewer where they are more than `size` bytes. Raises `OSError`."""
    lines = [json.dumps(row).encode() + b"\n" for row in found[-count:]]
    while len(lines) > 1 and sum(map(len, lines)) > size:
        del lines[0]
    write_file(state_path(system, name), b"".join(lines), 0o600)


def state_lock(system: System) -> AbstractContextManager[None]:
    """For the moment of a change that reads before it writes: another process waits. Raises `OSError`."""
    return lock_path(state_path(system, ""))


def current_time() -> str:
    """The time as this device has it, which may never have been set (ISO 8601, UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_boot_id(system: System) -> str:
    """The kernel's name of this boot (random(4)), empty where there is none."""
    return system.text("/proc/sys/kernel/random/boot_id").strip()
