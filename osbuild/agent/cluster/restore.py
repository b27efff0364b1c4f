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

from osbuild.agent import state_files as files
from osbuild.agent.cluster import version_record
from osbuild.agent.cluster.snapshot import DATA, Snapshot, find_snapshot, require_space
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.shared.files import sync_path, write_file

NOTE_TYPES = {"snapshot": str, "release": str, "revision": int, "facts": dict}


def read_note(system: System) -> dict[str, Any] | None:
    """What `begin_restore` noted, where it has not been finished."""
    return files.read_object(system, version_record.RESTORE_NOTE, NOTE_TYPES, list(NOTE_TYPES)) or None


def begin_restore(
    system: System, chosen: Snapshot, release: KubernetesVersion, seen: int, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Put `chosen` in the datastore's place, for `release` to go on with. Nothing of Kubernetes may run.

    `seen` is a revision up to which somebody may have read the datastore that goes; `metadata` are kept with the note.
    Returns them. Raises `Problem` and `OSError`, before anything was changed where there is no room.
    """
    database = system.path(datastore.FILE)
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    require_space(database.parent, datastore.database_size(chosen.database))
    note = {"snapshot": chosen.name, "release": str(release), "revision": max(seen, chosen.revision), "facts": metadata}
    ready_path(database).unlink(missing_ok=True)
    write_file(system.path(version_record.RESTORE_NOTE), json.dumps(note).encode() + b"\n", 0o600)
    return finish_restore(system, note)


def finish_restore(system: System, note: Mapping[str, Any]) -> dict[str, Any]:
    """Do what `note` says, however much of it is done already, and forget it. Returns its facts: see
    `unrecorded_restore`.

    Where the snapshot can't be used or has no room, nothing is changed, the note is dropped, and `Problem` or `OSError`
    raised. Where the disk fails after that, `OSError` is raised and the note stays.
    """
    chosen, database = find_snapshot(system, note["snapshot"]), system.path(datastore.FILE)
    revision = note["revision"] + datastore.REVISION_MARGIN
    try:
        if chosen is None:
            hint = "`edge-agent kubernetes snapshots` lists those that there are"
            raise Problem(f"snapshot {note['snapshot']} is gone", hint=hint)
        if not ready_path(database).exists():
            prepare_database(chosen, database, revision)
    except (OSError, Problem):
        remove_note(system)
        raise
    # From here on it needs no room: only names change.
    for old in datastore.sqlite_files(database):
        old.unlink(missing_ok=True)
    sync_path(database.parent)
    ready_path(database).rename(database)
    sync_path(database.parent)
    for file in sorted(path for path in (chosen.path / "files").rglob("*") if path.is_file()):
        write_file(system.path(DATA) / file.relative_to(chosen.path / "files"), file.read_bytes(), 0o600)
    version_record.store_record(
        system, VersionRecord(KubernetesVersion.parse(note["release"]), revision, chosen.schema)
    )
    with suppress(OSError):  # a disk that is full; then they are lost where the power fails before they are kept
        write_file(system.path(version_record.RESTORE_DONE), json.dumps(note["facts"]).encode() + b"\n", 0o600)
    remove_note(system)
    metadata: dict[str, Any] = note["facts"]
    return metadata


def unrecorded_restore(system: System) -> dict[str, Any] | None:
    """The facts of a restore that is finished and that nobody has `mark_recorded`."""
    return files.read_object(system, version_record.RESTORE_DONE) or None


def mark_recorded(system: System) -> None:
    """What `finish_restore` returned is written down. Raises `OSError`."""
    path = system.path(version_record.RESTORE_DONE)
    if path.exists():
        path.unlink()
        sync_path(path.parent)


def ready_path(database: Path) -> Path:
    """The new datastore, whole and on the disk, before it gets its name."""
    return database.with_name(f".{database.name}.ready")


def prepare_database(chosen: Snapshot, database: Path, revision: int) -> None:
    fresh = database.with_name(f".{database.name}.new")
    for scrap in (fresh, *datastore.sqlite_files(fresh)):
        scrap.unlink(missing_ok=True)
    datastore.copy_database(chosen.database, fresh)
    datastore.delete(
        fresh, datastore.BOOTSTRAP
    )  # authorities are those on the disk, which may have been issued again since
    datastore.skip_to_revision(fresh, revision)
    datastore.verify_database(fresh)
    fresh.rename(ready_path(database))
    sync_path(database.parent)


def remove_note(system: System) -> None:
    system.path(version_record.RESTORE_NOTE).unlink()
    sync_path(system.path(DATA))
