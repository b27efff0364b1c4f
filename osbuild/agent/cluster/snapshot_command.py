"""Snapshots by hand: `edge-agent kubernetes snapshots`, `snapshot` and `restore NAME`."""

import json

from osbuild.agent.cluster import cluster_data, migration, snapshot, version_record
from osbuild.agent.cluster.snapshot import Snapshot
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, versions
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.agent.systemd import find_active
from osbuild.shared.sizes import format_bytes

WRITERS = ("kine.service", "k3s-server.service")


def snapshot_json(one: Snapshot) -> dict[str, object]:
    return {
        "name": one.name, "kubernetes": str(one.release), "revision": one.revision, "taken": one.taken,
        "reason": one.reason, "size": one.size,
    }  # fmt: skip


def snapshot_lines(system: System, machine: bool) -> list[str]:
    """Lines about every snapshot, or JSON. Raises `PermissionError` for others than root."""
    next(iter(system.path(snapshot.DATA).iterdir()), None)  # they are for root only: none and not seen are two things
    snapshots = snapshot.list_snapshots(system)
    if machine:
        return [json.dumps([snapshot_json(one) for one in snapshots], indent=2)]
    if not snapshots:
        return ["no snapshots"]
    width = max(len(one.name) for one in snapshots)
    return [f"{one.name:{width}}  {one.taken}  {one.reason:8}  {format_bytes(one.size):>8}" for one in snapshots]


def server_version(system: System) -> KubernetesVersion:
    """The release of this node's cluster. Raises `Problem` where the node has no datastore."""
    release = versions.running_version(system)
    if release is None or versions.read_role(system) != "server":
        raise Problem("this node has no datastore: it is no server", hint="ask the server of its cluster")
    return release


def take_manually(system: System) -> str:
    """Take a snapshot; what to say about it. Raises `Problem`."""
    made = snapshot.take_snapshot(system, server_version(system), "asked", migration.needed_snapshots(system))
    if made is None:
        raise Problem("there is no datastore", where=datastore.FILE, hint="it is made at the first start of Kubernetes")
    return f"{made.name}, {format_bytes(made.size)}"


def restore_manually(system: System, name: str) -> str:
    """Put a snapshot in the datastore's place; what to say about it. Raises `Problem`."""
    release = server_version(system)
    chosen = snapshot.find_snapshot(system, name)
    if chosen is None:
        known = ", ".join(one.name for one in snapshot.list_snapshots(system)) or "none"
        raise Problem(f"there is no snapshot {name}", hint=f"there are: {known}")
    if chosen.release.distribution != release.distribution or versions.migrates(release, chosen.release):
        message = f"it was written by {chosen.release}, and this slot has {release}"
        raise Problem(message, where=name, hint="restore it in the slot that it is of, or take an older one")
    datastore.verify_database(chosen.database)
    if writers := find_active(*WRITERS):
        hint = "stop it first (systemctl stop kubernetes.target), wait for its end, and start it afterwards"
        raise Problem(f"Kubernetes runs: {', '.join(writers)}", hint=hint)
    done = migration.restore_snapshot(
        system, chosen, version_record.read_record(system) or VersionRecord(release), release
    )
    cluster_data.mark_recorded(system)  # whoever asked for it reads it
    counts = ", ".join(f"{count} {kind}" for kind, count in (done.get("counts") or {}).items() if count)
    kept = f"; what was there is now snapshot {done['replaced']}" if done.get("replaced") else ""
    return f"{name} is in place; objects lost by it: {counts or done.get('problem') or 'none'}{kept}"
