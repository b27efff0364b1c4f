"""Snapshots of embedded etcd, with the names and the folder of K3s on both distributions.

The server takes those of its schedule itself: K3s, or osbuild/kubernetes/upstream/etcd_snapshot.go. A snapshot contains
what all servers share, so it is restored on one server, and the others join that one again.
"""

import datetime
import json
import re
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from osbuild.agent.cluster.snapshot import require_space
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import etcd
from osbuild.agent.kubernetes.k3s_command import run_k3s
from osbuild.agent.kubernetes.paths import Paths, is_k3s
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System
from osbuild.shared.json_text import parse_json
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.sizes import format_bytes

PROGRAM = "usr/bin/edge-kubernetes"
DATABASE = "member/snap/db"  # below etcd's folder
NAME = re.compile(r"(?P<reason>[a-z-]+)-.*-(?P<time>[0-9]{9,12})(\.zip)?")
K3S_TIMEOUT = 600.0  # seconds for a snapshot, and for a restore, which starts a server


class SnapshotReason(StrEnum):
    """Why a snapshot was taken: by the schedule, manually, or before an update. The name begins with it."""

    SCHEDULE = "etcd-snapshot"
    ASKED = "on-demand"
    UPDATE = "pre-update"


@dataclass(frozen=True)
class EtcdSnapshot:
    """A file in the folder of snapshots. `taken` is a time of the node's clock (ISO 8601, UTC), `size` is in bytes."""

    name: str
    reason: SnapshotReason
    taken: str
    size: int


def has_etcd(system: System) -> bool:
    """Whether this node is a server with embedded etcd. Raises `Problem`."""
    return load_settings(system.root).uses_etcd


def list_snapshots(system: System) -> list[EtcdSnapshot]:
    """All snapshots of this server, the newest first. Raises `Problem` and `OSError`."""
    found = []
    for path in etcd.snapshot_folder(load_settings(system.root), Paths(system.root)).glob("[!.]*"):
        match = NAME.fullmatch(path.name)
        reason = next((known for known in SnapshotReason if path.name.startswith(f"{known}-")), None)
        if match and reason:
            taken = datetime.datetime.fromtimestamp(int(match["time"]), datetime.UTC).isoformat(timespec="seconds")
            found.append(EtcdSnapshot(path.name, reason, taken, path.stat().st_size))
    return sorted(found, key=lambda snapshot: (snapshot.taken, snapshot.name), reverse=True)


def take_snapshot(system: System, reason: SnapshotReason) -> EtcdSnapshot:
    """Take a snapshot of the running etcd, and remove old ones with this reason. Raises `Problem` and `OSError`."""
    settings, paths = load_settings(system.root), Paths(system.root)
    folder = etcd.snapshot_folder(settings, paths)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = paths.etcd / DATABASE
    require_space(folder, database.stat().st_size if database.exists() else 0)
    if is_k3s(system.root):
        run_k3s(system.root, "etcd-snapshot", "save", f"--name={reason}", timeout=K3S_TIMEOUT)
    else:
        run_etcd(paths, "snapshot", f"{reason}-{settings.node_name}-{int(time.time())}")
    same = [snapshot for snapshot in list_snapshots(system) if snapshot.reason == reason]
    if not same:
        raise Problem(f"there is no snapshot {reason}-*", where=str(folder), hint="look there, and try again")
    for old in same[etcd.read_retention(settings) :]:
        (folder / old.name).unlink(missing_ok=True)
    return same[0]


def restore_snapshot(system: System, name: str) -> str:
    """Make a cluster of this server alone from a snapshot, and return what to do next. Kubernetes must be stopped.

    Raises `Problem` and `OSError`.
    """
    settings, paths = load_settings(system.root), Paths(system.root)
    names = [snapshot.name for snapshot in list_snapshots(system)]
    if name not in names:
        raise Problem(f"there is no snapshot {name}", hint=f"existing snapshots: {', '.join(names) or 'none'}")
    if is_k3s(system.root):
        # Until K3s has started once, this file prevents another restore.
        (paths.etcd.parent / "reset-flag").unlink(missing_ok=True)
        path = etcd.snapshot_folder(settings, paths).relative_to(system.root) / name
        restore = ("server", "--cluster-reset", f"--cluster-reset-restore-path=/{path}")
        run_k3s(
            system.root, *restore, timeout=K3S_TIMEOUT, hint="run `k3s server --cluster-reset` manually to see more"
        )
        return f"{name} is restored; {next_step(settings)}"
    state = run_etcd(paths, "restore", name)
    return f"{name} is restored with {state['totalKey']} keys; {next_step(settings)}"


def next_step(settings: NodeSettings) -> str:
    """What has to follow a restore."""
    address = next(iter(settings.node_addresses), "ADDRESS-OF-THIS-SERVER")
    return (
        "start Kubernetes here first; on every other server stop it, remove /var/lib/kubernetes/server/db/etcd and "
        f"start it with `kubernetes.server: https://{address}:6443`, so that it joins this one"
    )


def run_etcd(paths: Paths, *arguments: str) -> Any:
    """Run a command of `edge-kubernetes etcd`, and return its answer. Raises `Problem`."""
    command: list[str | Path] = [paths.root / PROGRAM, "etcd", paths.run / "etcd.json", *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        hint = "`journalctl -u kubernetes-server` shows the state of etcd"
        raise Problem(f"etcd: {reason}", hint=hint)
    return parse_json(result.stdout)


def snapshot_lines(system: System, machine: bool) -> list[str]:
    """All snapshots as text or JSON. Raises `Problem` and `OSError`."""
    snapshots = list_snapshots(system)
    if machine:
        rows = [{"name": entry.name, "reason": str(entry.reason), "taken": entry.taken, "size": entry.size}
                for entry in snapshots]  # fmt: skip
        return [json.dumps(rows, indent=2)]
    width = max((len(entry.name) for entry in snapshots), default=0)
    return [f"{entry.name:{width}}  {entry.taken}  {format_bytes(entry.size):>8}" for entry in snapshots] or [
        "no snapshots"
    ]
