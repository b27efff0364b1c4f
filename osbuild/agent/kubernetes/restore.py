"""Puts a snapshot in the datastore's place, so that a power cut at any moment changes nothing of the result.

What is to be done is written down first, with what gets lost by it, and every boot goes on with it until the note is
gone. The new datastore is made beside the old one. Before it gets the old one's name, the old one's log goes: SQLite
would take it for the new one's and play it into it. What was lost is said again until whoever asked has kept that.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from osbuild.agent import kept as files
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, stamp
from osbuild.agent.kubernetes.snapshot import DATA, Snapshot, named, require
from osbuild.agent.kubernetes.stamp import Stamp
from osbuild.agent.kubernetes.versions import Release
from osbuild.agent.system import System, flush, write

NOTED = {"snapshot": str, "release": str, "revision": int, "facts": dict}


def pending(system: System) -> dict[str, Any] | None:
    """What `begin` noted, where it has not been finished."""
    return files.row(system, stamp.NOTE, NOTED, list(NOTED)) or None


def begin(system: System, chosen: Snapshot, release: Release, seen: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put `chosen` in the datastore's place, for `release` to go on with. Nothing of Kubernetes may run.

    `seen` is a revision up to which somebody may have read the datastore that goes; `facts` are kept with the note.
    Returns them. Raises `Problem` and `OSError`, before anything was changed where there is no room.
    """
    database = system.path(datastore.FILE)
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    require(database.parent, datastore.size(chosen.database))
    note = {"snapshot": chosen.name, "release": str(release), "revision": max(seen, chosen.revision), "facts": facts}
    ready(database).unlink(missing_ok=True)
    write(system.path(stamp.NOTE), json.dumps(note).encode() + b"\n", 0o600)
    return finish(system, note)


def finish(system: System, note: Mapping[str, Any]) -> dict[str, Any]:
    """Do what `note` says, however much of it is done already, and forget it. Returns its facts: see `done`.

    Where the snapshot can't be used or has no room, nothing is changed, the note is dropped, and `Problem` or `OSError`
    raised. Where the disk fails after that, `OSError` is raised and the note stays.
    """
    chosen, database = named(system, note["snapshot"]), system.path(datastore.FILE)
    revision = note["revision"] + datastore.MARGIN
    try:
        if chosen is None:
            hint = "`edge-agent kubernetes snapshots` lists those that there are"
            raise Problem(f"snapshot {note['snapshot']} is gone", hint=hint)
        if not ready(database).exists():
            prepare(chosen, database, revision)
    except (OSError, Problem):
        forget(system)
        raise
    # From here on it needs no room: only names change.
    for old in datastore.beside(database):
        old.unlink(missing_ok=True)
    flush(database.parent)
    ready(database).rename(database)
    flush(database.parent)
    for file in sorted(path for path in (chosen.path / "files").rglob("*") if path.is_file()):
        write(system.path(DATA) / file.relative_to(chosen.path / "files"), file.read_bytes(), 0o600)
    stamp.put(system, Stamp(Release.parse(note["release"]), revision, chosen.schema))
    with suppress(OSError):  # a disk that is full; then they are lost where the power fails before they are kept
        write(system.path(stamp.DONE), json.dumps(note["facts"]).encode() + b"\n", 0o600)
    forget(system)
    facts: dict[str, Any] = note["facts"]
    return facts


def done(system: System) -> dict[str, Any] | None:
    """The facts of a restore that is finished and that nobody has `kept`."""
    return files.row(system, stamp.DONE) or None


def kept(system: System) -> None:
    """What `finish` returned is written down. Raises `OSError`."""
    path = system.path(stamp.DONE)
    if path.exists():
        path.unlink()
        flush(path.parent)


def ready(database: Path) -> Path:
    """The new datastore, whole and on the disk, before it gets its name."""
    return database.with_name(f".{database.name}.ready")


def prepare(chosen: Snapshot, database: Path, revision: int) -> None:
    fresh = database.with_name(f".{database.name}.new")
    for scrap in (fresh, *datastore.beside(fresh)):
        scrap.unlink(missing_ok=True)
    datastore.copy(chosen.database, fresh)
    datastore.delete(
        fresh, datastore.BOOTSTRAP
    )  # authorities are those on the disk, which may have been issued again since
    datastore.continue_after(fresh, revision)
    datastore.verify(fresh)
    fresh.rename(ready(database))
    flush(database.parent)


def forget(system: System) -> None:
    system.path(stamp.NOTE).unlink()
    flush(system.path(DATA))
