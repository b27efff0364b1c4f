"""Replaces the datastore with a snapshot, safely at every power cut.

The plan is stored first, together with the changes that get lost, and every boot continues it until it is finished. The
new datastore is prepared beside the old one. The old write-ahead log is removed before the rename, because SQLite would
apply it to the new datastore. The lost changes are reported at every boot until the caller has recorded them.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
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

PLAN_TYPES = {"snapshot": str, "release": str, "revision": int, "facts": dict}


@dataclass(frozen=True)
class RestorePlan:
    """What an unfinished restore needs: the snapshot's name, the version that will use it, and the highest revision.

    `details` are reported when the restore is finished.
    """

    snapshot: str
    kubernetes: str
    revision: int
    details: Mapping[str, Any]


def read_plan(system: System) -> RestorePlan | None:
    """The plan of an unfinished restore; None if there is none."""
    plan = files.read_object(system, version_record.RESTORE_PLAN, PLAN_TYPES, list(PLAN_TYPES))
    return RestorePlan(plan["snapshot"], plan["release"], plan["revision"], plan["facts"]) if plan else None


def begin_restore(
    system: System,
    chosen: Snapshot,
    kubernetes: KubernetesVersion,
    newest_revision: int,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """Replace the datastore with snapshot `chosen`, for `kubernetes`. Kubernetes must be stopped. Returns `details`.

    `newest_revision` is the highest revision that a client may have read from the old datastore. Raises `Problem` and
    `OSError`; if there is no space, nothing is changed.
    """
    database = system.path(datastore.FILE)
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    require_space(database.parent, datastore.database_size(chosen.database))
    plan = RestorePlan(chosen.name, str(kubernetes), max(newest_revision, chosen.revision), details)
    document = {
        "snapshot": plan.snapshot,
        "release": plan.kubernetes,
        "revision": plan.revision,
        "facts": plan.details,
    }
    ready_path(database).unlink(missing_ok=True)
    write_file(system.path(version_record.RESTORE_PLAN), json.dumps(document).encode() + b"\n", 0o600)
    return finish_restore(system, plan)


def finish_restore(system: System, plan: RestorePlan) -> dict[str, Any]:
    """Continue the restore of `plan` from any state, and remove the stored plan. Returns its details.

    If the snapshot cannot be used or there is no space, nothing is changed, the plan is removed, and `Problem` or
    `OSError` is raised. If the disk fails after that, `OSError` is raised and the plan is kept.
    """
    chosen, database = find_snapshot(system, plan.snapshot), system.path(datastore.FILE)
    revision = plan.revision + datastore.REVISION_MARGIN
    try:
        if chosen is None:
            hint = "`edge-agent kubernetes snapshots` lists the snapshots"
            raise Problem(f"snapshot {plan.snapshot} does not exist any more", hint=hint)
        if not ready_path(database).exists():
            prepare_database(chosen, database, revision)
    except (OSError, Problem):
        remove_plan(system)
        raise
    # The remaining steps only rename files, so they need no space.
    for old_file in datastore.sqlite_files(database):
        old_file.unlink(missing_ok=True)
    sync_path(database.parent)
    ready_path(database).rename(database)
    sync_path(database.parent)
    for file in sorted(path for path in (chosen.path / "files").rglob("*") if path.is_file()):
        write_file(system.path(DATA) / file.relative_to(chosen.path / "files"), file.read_bytes(), 0o600)
    version_record.store_record(
        system, VersionRecord(KubernetesVersion.parse(plan.kubernetes), revision, chosen.schema)
    )
    with suppress(OSError):  # if the disk is full, a power cut may prevent the details from being recorded
        write_file(system.path(version_record.RESTORE_DONE), json.dumps(plan.details).encode() + b"\n", 0o600)
    remove_plan(system)
    return dict(plan.details)


def unrecorded_restore(system: System) -> dict[str, Any] | None:
    """The details of a finished restore that are not recorded yet; None if there are none."""
    return files.read_object(system, version_record.RESTORE_DONE) or None


def mark_recorded(system: System) -> None:
    """Confirm that the details of the last restore are recorded. Raises `OSError`."""
    path = system.path(version_record.RESTORE_DONE)
    if path.exists():
        path.unlink()
        sync_path(path.parent)


def ready_path(database: Path) -> Path:
    """The path of the prepared datastore before it is renamed."""
    return database.with_name(f".{database.name}.ready")


def prepare_database(chosen: Snapshot, database: Path, revision: int) -> None:
    """Copy the datastore of a snapshot to `ready_path`, with a higher revision. Raises `Problem` and `OSError`."""
    copy = database.with_name(f".{database.name}.new")
    for leftover in (copy, *datastore.sqlite_files(copy)):
        leftover.unlink(missing_ok=True)
    datastore.copy_database(chosen.database, copy)
    # The certificate authorities on the disk are used, because they may have been issued again since the snapshot.
    datastore.delete_objects(copy, datastore.BOOTSTRAP)
    datastore.raise_revision(copy, revision)
    datastore.verify_database(copy)
    copy.rename(ready_path(database))
    sync_path(database.parent)


def remove_plan(system: System) -> None:
    system.path(version_record.RESTORE_PLAN).unlink()
    sync_path(system.path(DATA))
