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

from osbuild.agent import kept
from osbuild.agent.kept import Types
from osbuild.agent.system import System, clear, exclusive, flush, make_folder, write

FOLDER = "/var/lib/edge-osbuild/update"
Row = kept.Row
DOWNLOAD = ("download.json", "download.raucb")  # see `osbuild.agent.update.download`, which is slow to import


def place(system: System, name: str) -> Path:
    """The file `name`, in a folder that is made where it is missing. Raises `OSError`."""
    folder = system.path(FOLDER)
    make_folder(folder, 0o700)
    return folder / name


def load(system: System, name: str, types: Types | None = None, required: Sequence[str] = ()) -> Row:
    """An object; empty where there is none. See `osbuild.agent.kept.row`."""
    return kept.row(system, f"{FOLDER}/{name}", types, required)


def save(system: System, name: str, value: Mapping[str, Any]) -> None:
    """Replace an object. Raises `OSError`."""
    write(place(system, name), json.dumps(value, indent=1).encode() + b"\n", 0o600)


def remove(system: System, name: str) -> None:
    """Raises `OSError`; a file that is not there is fine."""
    path = place(system, name)
    clear(path)
    path.unlink(missing_ok=True)
    flush(path.parent)


def part(row: Row, name: str) -> Row:
    """An object within an object; empty where there is none."""
    found = row.get(name)
    return found if isinstance(found, dict) else {}


def discard(system: System) -> None:
    """Throw away what was fetched of a bundle, where there is something. Raises `OSError`."""
    for name in DOWNLOAD:
        if os.path.lexists(place(system, name)):
            remove(system, name)


def rows(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one a line, the oldest first. See `osbuild.agent.kept.rows`."""
    return kept.rows(system, f"{FOLDER}/{name}", types)


def save_rows(system: System, name: str, found: Sequence[Row], *, count: int, size: int) -> None:
    """Replace such a file with the last `count` rows, fewer where they are more than `size` bytes. Raises `OSError`."""
    lines = [json.dumps(row).encode() + b"\n" for row in found[-count:]]
    while len(lines) > 1 and sum(map(len, lines)) > size:
        del lines[0]
    write(place(system, name), b"".join(lines), 0o600)


def locked(system: System) -> AbstractContextManager[None]:
    """For the moment of a change that reads before it writes: another process waits. Raises `OSError`."""
    return exclusive(place(system, ""))


def now() -> str:
    """The time as this device has it, which may never have been set (ISO 8601, UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def boot_id(system: System) -> str:
    """The kernel's name of this boot (random(4)), empty where there is none."""
    return system.text("/proc/sys/kernel/random/boot_id").strip()
