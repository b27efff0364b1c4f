"""A rollback restores the embedded etcd of a server that is the only one, as it restores SQLite.

Before an update, the server stores which snapshot belongs to the version that it leaves. If that version boots again,
the snapshot is restored by edge-etcd-restore.service, before Kubernetes starts. Other members of etcd would still have
what is newer, so with these nothing is restored.
"""

import json
from dataclasses import dataclass
from typing import Any

from osbuild.agent import state_files
from osbuild.agent.cluster import etcd_snapshot
from osbuild.agent.cluster.etcd_members import count_members
from osbuild.agent.cluster.etcd_snapshot import DATABASE, EtcdSnapshot
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.shared.files import sync_path, write_file

POINT = "/var/lib/kubernetes/etcd-rollback.json"
PENDING = "/var/lib/kubernetes/etcd-restore.json"  # what edge-etcd-restore.service restores at this boot
TYPES = {"snapshot": str, "taken": str, "release": str}


@dataclass(frozen=True)
class RollbackPoint:
    """The name of a snapshot, when it was taken (ISO 8601, UTC), and the version that it belongs to."""

    snapshot: str
    taken: str
    kubernetes: KubernetesVersion

    def describe(self) -> dict[str, Any]:
        """What a restore brings back, in the form of `migration.describe_restore`."""
        problem = "everything that was written since, which is not known for etcd"
        return {
            "snapshot": self.snapshot, "release": str(self.kubernetes), "taken": self.taken,
            "lost": None, "problem": problem,
        }  # fmt: skip


def store_point(system: System, taken: EtcdSnapshot | None, kubernetes: KubernetesVersion) -> None:
    """Store that the snapshot `taken` belongs to `kubernetes`; with None, that there is none. Raises `OSError`."""
    path = system.path(POINT)
    if taken:
        row = {"snapshot": taken.name, "taken": taken.taken, "release": str(kubernetes)}
        write_file(path, json.dumps(row).encode() + b"\n", 0o600)
    elif path.exists():
        path.unlink()
        sync_path(path.parent)


def find_point(system: System, kubernetes: KubernetesVersion) -> RollbackPoint | None:
    """What a rollback to `kubernetes` restores; None if etcd has other members. Raises `Problem` and `OSError`."""
    row = state_files.read_object(system, POINT, TYPES, list(TYPES))
    if not row or row["release"] != str(kubernetes) or count_members(Paths(system.root).etcd / DATABASE) != 1:
        return None
    return RollbackPoint(row["snapshot"], row["taken"], kubernetes)


def request_restore(system: System, point: RollbackPoint) -> None:
    """Let edge-etcd-restore.service restore a snapshot in this boot. Raises `OSError`."""
    # Not now: the settings of this boot are not known yet, and K3s needs its configuration.
    write_file(system.path(PENDING), json.dumps({"snapshot": point.snapshot}).encode() + b"\n", 0o600)


def restore_pending(system: System) -> str:
    """Restore the requested snapshot, and return what was done. It can be repeated. Raises `Problem` and `OSError`."""
    path = system.path(PENDING)
    pending = state_files.read_object(system, PENDING, {"snapshot": str}, ["snapshot"])
    line = etcd_snapshot.restore_snapshot(system, pending["snapshot"]) if pending else "no snapshot is to be restored"
    for done in (path, system.path(POINT)):
        done.unlink(missing_ok=True)
    sync_path(path.parent)
    return line
