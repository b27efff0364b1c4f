"""The commands `edge-agent kubernetes snapshots`, `snapshot` and `restore NAME`."""

import json

from osbuild.agent.cluster import cluster_data, etcd_snapshot, migration, snapshot, version_record
from osbuild.agent.cluster.etcd_snapshot import SnapshotReason
from osbuild.agent.cluster.snapshot import Snapshot
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, versions
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.agent.systemd import find_active
from osbuild.shared.sizes import format_bytes

WRITERS = ("kubernetes-server.service", "k3s-server.service")
STOP_PATIENCE = 40.0  # seconds; systemd kills a service that has not stopped after 30 s (DefaultTimeoutStopSec)


def snapshot_json(entry: Snapshot) -> dict[str, object]:
    return {
        "name": entry.name, "kubernetes": str(entry.kubernetes), "revision": entry.revision, "taken": entry.taken,
        "reason": entry.reason, "size": entry.size,
    }  # fmt: skip


def snapshot_lines(system: System, machine: bool) -> list[str]:
    """All snapshots as text or JSON. Raises `PermissionError` for users other than root."""
    next(iter(system.path(snapshot.DATA).iterdir()), None)  # raises PermissionError instead of showing an empty list
    if etcd_snapshot.has_etcd(system):
        return etcd_snapshot.snapshot_lines(system, machine)
    snapshots = snapshot.list_snapshots(system)
    if machine:
        return [json.dumps([snapshot_json(entry) for entry in snapshots], indent=2)]
    if not snapshots:
        return ["no snapshots"]
    width = max(len(entry.name) for entry in snapshots)
    return [
        f"{entry.name:{width}}  {entry.taken}  {entry.reason:8}  {format_bytes(entry.size):>8}" for entry in snapshots
    ]


def server_version(system: System) -> KubernetesVersion:
    """The running Kubernetes version. Raises `Problem` if the node has no datastore."""
    kubernetes = versions.running_version(system)
    if kubernetes is None or versions.read_role(system) != "server":
        raise Problem(
            "this node has no datastore, because it is not a server node",
            hint="run it on the server node of the cluster",
        )
    return kubernetes


def take_manually(system: System) -> str:
    """Take a snapshot. Returns the line to print. Raises `Problem`."""
    if etcd_snapshot.has_etcd(system):
        asked = etcd_snapshot.take_snapshot(system, SnapshotReason.ASKED)
        return f"{asked.name}, {format_bytes(asked.size)}"
    taken = snapshot.take_snapshot(system, server_version(system), "asked", migration.needed_snapshots(system))
    if taken is None:
        raise Problem(
            "there is no datastore", where=datastore.FILE, hint="it is created at the first start of Kubernetes"
        )
    return f"{taken.name}, {format_bytes(taken.size)}"


def require_stopped() -> None:
    """Raise `Problem` if a program is running that uses the datastore."""
    # `systemctl stop kubernetes.target` returns before the services of that target have stopped.
    if writers := find_active(*WRITERS, patience=STOP_PATIENCE):
        hint = "stop it with `systemctl stop kubernetes.target`, and start it afterwards"
        raise Problem(f"Kubernetes is running: {', '.join(writers)}", hint=hint)


def restore_manually(system: System, name: str) -> str:
    """Replace the datastore with a snapshot. Returns the line to print. Raises `Problem`."""
    kubernetes = server_version(system)
    if etcd_snapshot.has_etcd(system):
        require_stopped()
        return etcd_snapshot.restore_snapshot(system, name)
    chosen = snapshot.find_snapshot(system, name)
    if chosen is None:
        names = ", ".join(entry.name for entry in snapshot.list_snapshots(system)) or "none"
        raise Problem(f"there is no snapshot {name}", hint=f"existing snapshots: {names}")
    if chosen.kubernetes.distribution != kubernetes.distribution or versions.needs_migration(
        kubernetes, chosen.kubernetes
    ):
        message = f"the snapshot was written by {chosen.kubernetes}, but this slot has {kubernetes}"
        raise Problem(
            message, where=name, hint="restore it in the slot with that version, or restore an older snapshot"
        )
    datastore.verify_database(chosen.database)
    require_stopped()
    result = migration.restore_snapshot(
        system, chosen, version_record.read_record(system) or VersionRecord(kubernetes), kubernetes
    )
    cluster_data.mark_recorded(system)  # the result is printed, so it is not reported at the next boot
    counts = ", ".join(f"{count} {kind}" for kind, count in (result.get("counts") or {}).items() if count)
    replaced = f"; the replaced datastore is now snapshot {result['replaced']}" if result.get("replaced") else ""
    return f"{name} is restored; lost changes: {counts or result.get('problem') or 'none'}{replaced}"
