"""Adapts the cluster data after a change of the Kubernetes version. Imported only at boots that need it."""

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from osbuild.agent.cluster import etcd_rollback, restore, snapshot, version_record
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, versions
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System

LISTED = 100  # names of lost objects that are recorded per kind
# The kubelet's records of processors and memory that are assigned to containers. It does not start if a file has the
# format of another version, and recommends deleting it. After a boot no container has anything assigned.
KUBELET_STATE = ("/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state")


def migrate_data(system: System, kubernetes: KubernetesVersion) -> dict[str, Any]:
    """Finish an interrupted restore, then adapt the data to `kubernetes`. Returns what was done, and any `problem`.

    Raises `OSError` if a restore could not be finished: Kubernetes must not start until a later boot has finished it.
    """
    result: dict[str, Any] = {}
    if finished := restore.unrecorded_restore(system):
        result = {"restored": finished}
    try:
        if plan := restore.read_plan(system):
            try:
                result = {"restored": restore.finish_restore(system, plan)}
            except Problem as problem:  # another snapshot may be usable
                print(f"an interrupted restore cannot be finished: {problem}", file=sys.stderr)
        record = version_record.read_record(system)
        if record and record.kubernetes == kubernetes:
            return result
        result |= {"from": str(record.kubernetes) if record else None, "to": str(kubernetes)}
        if record and record.kubernetes.minor != kubernetes.minor:
            for name in KUBELET_STATE:
                system.path(name).unlink(missing_ok=True)
        restored = (
            restore_for(system, record, kubernetes)
            if record and versions.needs_migration(kubernetes, record.kubernetes)
            else {}
        )
        result |= restored
        if "restored" not in restored:
            result |= record_version(system, record, kubernetes)
    except (OSError, Problem) as error:
        if isinstance(error, OSError) and restore.read_plan(system):
            raise
        result["problem"] = str(error)
    return result


def record_version(system: System, record: VersionRecord | None, kubernetes: KubernetesVersion) -> dict[str, Any]:
    """Record that `kubernetes` uses the data, after a snapshot if it is newer. Returns what was done."""
    result: dict[str, Any] = {}
    if record and versions.needs_migration(record.kubernetes, kubernetes) and versions.read_role(system) == "server":
        try:
            taken = snapshot.take_snapshot(system, record.kubernetes, "boot", needed_snapshots(system))
            result["snapshot"] = taken.name if taken else None
        except (OSError, Problem) as error:  # the snapshot from before the switch still exists
            result["problem"] = f"no snapshot at boot: {error}"
    file = datastore.find_database(system)
    state = datastore.read_state(file) if file else None
    previous = record.kubernetes if record else None
    version_record.store_record(
        system,
        VersionRecord(kubernetes, state.revision if state else None, state.schema if state else None, previous),
    )
    return result


def restore_for(system: System, record: VersionRecord, kubernetes: KubernetesVersion) -> dict[str, Any]:
    """Restore a snapshot for `kubernetes`, an older version than that of `record`, if the datastore has changed.

    Returns `restored`, `kept` or `problem`; empty on an agent node.
    """
    # If that fails, the older version uses the existing data from state on. A restore at a later boot would discard its
    # changes.
    if point := etcd_rollback.find_point(system, kubernetes):
        etcd_rollback.request_restore(system, point)
        version_record.store_record(system, VersionRecord(kubernetes))
        return {"restored": point.describe()}
    if record.revision is None and datastore.find_database(system) is None:
        return {}  # an agent node
    state = None
    try:
        file = datastore.find_database(system)
        state = datastore.read_state(file) if file else None
        if state == datastore.DatastoreState(record.revision or 0, record.schema or ""):
            return {"kept": f"{record.kubernetes} has not changed the datastore"}
    except Problem as problem:
        print(f"the datastore of {record.kubernetes} is damaged: {problem}", file=sys.stderr)
    usable = snapshot.find_usable(system, kubernetes)
    reason = f"no snapshot that {kubernetes} can use"
    try:
        if usable:
            return {"restored": restore_snapshot(system, usable, record, kubernetes)}
    except (OSError, Problem) as error:
        if restore.read_plan(system):
            raise
        reason = f"{error}"
    return {"problem": f"{reason}; {kubernetes} uses the data of {record.kubernetes}"}


def restore_snapshot(
    system: System, restored: snapshot.Snapshot, record: VersionRecord, kubernetes: KubernetesVersion
) -> dict[str, Any]:
    """Replace the datastore with a snapshot for `kubernetes`. The old datastore becomes a snapshot itself (`replaced`).

    Kubernetes must be stopped. Returns what is restored and what is lost. Raises `Problem` and `OSError`.
    """
    result = describe_restore(system, restored)
    newest_revision = record.revision or 0
    try:
        if replaced := snapshot.take_snapshot(
            system, record.kubernetes, "replaced", [restored.name, *needed_snapshots(system)]
        ):
            result["replaced"] = replaced.name
            newest_revision = max(newest_revision, replaced.revision)
    except (OSError, Problem) as error:
        failure = f"the data of {record.kubernetes} are not stored as a snapshot: {error}"
        result["problem"] = "; ".join(filter(None, (result.get("problem"), failure)))
    if file := datastore.find_database(system):
        with suppress(Problem):
            newest_revision = max(newest_revision, datastore.read_state(file).revision)
    return restore.begin_restore(system, restored, kubernetes, newest_revision, result)


def describe_restore(system: System, restored: snapshot.Snapshot) -> dict[str, Any]:
    """The snapshot, and the changes that its restore would lose: counts, and up to `LISTED` names of each kind."""
    result: dict[str, Any] = {
        "snapshot": restored.name,
        "release": str(restored.kubernetes),
        "taken": restored.taken,
    }
    try:
        file = datastore.find_database(system)
        lost = asdict(datastore.compare_databases(restored.database, file)) if file else {}
        result["lost"] = {kind: list(names[:LISTED]) for kind, names in lost.items()}
        result["counts"] = {kind: len(names) for kind, names in lost.items()}
    except Problem as problem:
        result["lost"] = None
        result["problem"] = f"the lost changes are unknown: {problem}"
    return result


def rollback_loss(system: System, version: str | None = None) -> dict[str, Any] | None:
    """See `osbuild.agent.cluster.cluster_data`."""
    record = version_record.read_record(system)
    kubernetes = KubernetesVersion.parse(version) if version else record and record.previous
    if not record or not kubernetes or not versions.needs_migration(kubernetes, record.kubernetes):
        return None
    if point := etcd_rollback.find_point(system, kubernetes):
        return point.describe()
    if datastore.find_database(system) is None:
        return None
    usable = snapshot.find_usable(system, kubernetes)
    if usable is None:
        return {"problem": f"no snapshot that {kubernetes} can use; it would use the data of {record.kubernetes}"}
    return describe_restore(system, usable)


def needed_snapshots(system: System) -> list[str]:
    """Names of snapshots that must not be removed: the one for a rollback to the previous version, if there is one."""
    record = version_record.read_record(system)
    if record is None or record.previous is None:
        return []
    return [
        candidate.name
        for candidate in snapshot.list_snapshots(system)
        if candidate.kubernetes == record.previous and candidate.reason != "replaced"
    ][:1]
