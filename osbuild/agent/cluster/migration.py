"""Data that one release of Kubernetes has had becomes another's: the part that not every boot needs."""

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from osbuild.agent.cluster import restore, snapshot, version_record
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, versions
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System

LISTED = 100  # names of lost objects that are written down, of each kind
# What the kubelet remembers of processors and memory that containers have. It refuses to start over a file of another
# form (its own advice then: delete it), and after a boot no container has anything any more.
KUBELET_STATE = ("/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state")


def migrate_data(system: System, release: KubernetesVersion) -> dict[str, Any]:
    """Finish a restore that was cut, then make the data `release`'s. Returns what was done; what was not: `problem`.

    Raises `OSError` where a restore got stuck halfway: Kubernetes must not run until a later boot has finished it.
    """
    metadata: dict[str, Any] = {}
    if lost := restore.unrecorded_restore(system):
        metadata = {"restored": lost}
    try:
        if note := restore.read_note(system):
            try:
                metadata = {"restored": restore.finish_restore(system, note)}
            except Problem as problem:  # another snapshot may do
                print(f"a restore that was begun is given up: {problem}", file=sys.stderr)
        last = version_record.read_record(system)
        if last and last.release == release:
            return metadata
        metadata |= {"from": str(last.release) if last else None, "to": str(release)}
        if last and last.release.minor != release.minor:
            for name in KUBELET_STATE:
                system.path(name).unlink(missing_ok=True)
        went = restore_for(system, last, release) if last and versions.migrates(release, last.release) else {}
        metadata |= went
        if "restored" not in went:
            metadata |= record_version(system, last, release)
    except (OSError, Problem) as error:
        if isinstance(error, OSError) and restore.read_note(system):
            raise
        metadata["problem"] = str(error)
    return metadata


def record_version(system: System, last: VersionRecord | None, release: KubernetesVersion) -> dict[str, Any]:
    """Stamp the data as this release's, after a snapshot where it is newer."""
    metadata: dict[str, Any] = {}
    if last and versions.migrates(last.release, release) and versions.read_role(system) == "server":
        try:
            made = snapshot.take_snapshot(system, last.release, "boot", needed_snapshots(system))
            metadata["snapshot"] = made.name if made else None
        except (OSError, Problem) as error:  # the one from before the switch is still there
            metadata["problem"] = f"no snapshot at boot: {error}"
    file = datastore.find_database(system)
    now = datastore.read_state(file) if file else None
    previous = last.release if last else None
    version_record.store_record(
        system, VersionRecord(release, now.revision if now else None, now.schema if now else None, previous)
    )
    return metadata


def restore_for(system: System, last: VersionRecord, release: KubernetesVersion) -> dict[str, Any]:
    """Restore for an older `release` than the one of `last`, if it must be.

    Where that can't be, the older one runs on what there is, for good: a restore at a later boot would take away what
    it has written by then.
    """
    if last.revision is None and datastore.find_database(system) is None:
        return {}  # an agent
    now = None
    try:
        file = datastore.find_database(system)
        now = datastore.read_state(file) if file else None
        if now == datastore.DatastoreState(last.revision or 0, last.schema or ""):
            return {"kept": f"{last.release} had not changed the datastore"}
    except Problem as problem:
        print(f"the datastore that {last.release} leaves is damaged: {problem}", file=sys.stderr)
    chosen = snapshot.find_usable(system, release)
    why = f"no snapshot that {release} can use"
    try:
        if chosen:
            return {"restored": restore_snapshot(system, chosen, last, release)}
    except (OSError, Problem) as error:
        if restore.read_note(system):
            raise
        why = f"{error}"
    return {"problem": f"{why}: {release} has to run on what {last.release} has written"}


def restore_snapshot(
    system: System, chosen: snapshot.Snapshot, last: VersionRecord, release: KubernetesVersion
) -> dict[str, Any]:
    """Put a snapshot in the datastore's place, for `release`. What `last.release` has written becomes a snapshot too.

    Nothing of Kubernetes may run. Returns what is restored, and what is lost by it. Raises `Problem` and `OSError`.
    """
    metadata = describe_restore(system, chosen)
    seen = last.revision or 0
    try:
        if kept := snapshot.take_snapshot(system, last.release, "replaced", [chosen.name, *needed_snapshots(system)]):
            metadata["replaced"] = kept.name
            seen = max(seen, kept.revision)
    except (OSError, Problem) as error:
        lacking = f"what {last.release} had written is not kept: {error}"
        metadata["problem"] = "; ".join(filter(None, (metadata.get("problem"), lacking)))
    if file := datastore.find_database(system):
        with suppress(Problem):
            seen = max(seen, datastore.read_state(file).revision)
    return restore.begin_restore(system, chosen, release, seen, metadata)


def describe_restore(system: System, chosen: snapshot.Snapshot) -> dict[str, Any]:
    """A snapshot, and what is lost where it takes the datastore's place: counts, and some of the names."""
    metadata: dict[str, Any] = {"snapshot": chosen.name, "release": str(chosen.release), "taken": chosen.taken}
    try:
        file = datastore.find_database(system)
        lost = asdict(datastore.compare_databases(chosen.database, file)) if file else {}
        metadata["lost"] = {kind: list(names[:LISTED]) for kind, names in lost.items()}
        metadata["counts"] = {kind: len(names) for kind, names in lost.items()}
    except Problem as problem:
        metadata["lost"] = None
        metadata["problem"] = f"what is lost is not known: {problem}"
    return metadata


def rollback_loss(system: System, wanted: str | None = None) -> dict[str, Any] | None:
    """What a rollback to `wanted` would take from the cluster, by default to what ran before; None for nothing.

    Else which snapshot comes back, and what is lost; `problem` where there is none. Raises `Problem`.
    """
    last = version_record.read_record(system)
    release = KubernetesVersion.parse(wanted) if wanted else last and last.previous
    if (
        not last
        or not release
        or not versions.migrates(release, last.release)
        or datastore.find_database(system) is None
    ):
        return None
    chosen = snapshot.find_usable(system, release)
    if chosen is None:
        return {"problem": f"no snapshot that {release} can use: it would run on what {last.release} has written"}
    return describe_restore(system, chosen)


def needed_snapshots(system: System) -> list[str]:
    """The snapshot that a rollback to the release before this one would need: rotation spares it."""
    last = version_record.read_record(system)
    if last is None or last.previous is None:
        return []
    return [
        one.name for one in snapshot.list_snapshots(system) if one.release == last.previous and one.reason != "replaced"
    ][:1]
