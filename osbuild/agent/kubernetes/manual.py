"""Snapshots by hand: `edge-agent kubernetes snapshots`, `snapshot` and `restore NAME`."""

import json

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, follow, snapshot, stamp, succession, versions
from osbuild.agent.kubernetes.snapshot import Snapshot
from osbuild.agent.kubernetes.stamp import Stamp
from osbuild.agent.kubernetes.versions import Release
from osbuild.agent.system import System
from osbuild.agent.systemd import busy

WRITERS = ("kine.service", "k3s-server.service")


def facts(one: Snapshot) -> dict[str, object]:
    return {
        "name": one.name, "kubernetes": str(one.release), "revision": one.revision, "taken": one.taken,
        "reason": one.reason, "size": one.size,
    }  # fmt: skip


def listed(system: System, machine: bool) -> list[str]:
    """Lines about every snapshot, or JSON. Raises `PermissionError` for others than root."""
    next(iter(system.path(snapshot.DATA).iterdir()), None)  # they are for root only: none and not seen are two things
    found = snapshot.snapshots(system)
    if machine:
        return [json.dumps([facts(one) for one in found], indent=2)]
    if not found:
        return ["no snapshots"]
    width = max(len(one.name) for one in found)
    return [f"{one.name:{width}}  {one.taken}  {one.reason:8}  {snapshot.mebi(one.size):>8}" for one in found]


def server(system: System) -> Release:
    """The release of this node's cluster. Raises `Problem` where the node has no datastore."""
    release = versions.running(system)
    if release is None or versions.role(system) != "server":
        raise Problem("this node has no datastore: it is no server", hint="ask the server of its cluster")
    return release


def take(system: System) -> str:
    """Take a snapshot; what to say about it. Raises `Problem`."""
    made = snapshot.take(system, server(system), "asked", succession.needed(system))
    if made is None:
        raise Problem("there is no datastore", where=datastore.FILE, hint="it is made at the first start of Kubernetes")
    return f"{made.name}, {snapshot.mebi(made.size)}"


def restore(system: System, name: str) -> str:
    """Put a snapshot in the datastore's place; what to say about it. Raises `Problem`."""
    release = server(system)
    chosen = snapshot.named(system, name)
    if chosen is None:
        known = ", ".join(one.name for one in snapshot.snapshots(system)) or "none"
        raise Problem(f"there is no snapshot {name}", hint=f"there are: {known}")
    if chosen.release.distribution != release.distribution or versions.migrates(release, chosen.release):
        message = f"it was written by {chosen.release}, and this slot has {release}"
        raise Problem(message, where=name, hint="restore it in the slot that it is of, or take an older one")
    datastore.verify(chosen.database)
    if writers := busy(*WRITERS):
        hint = "stop it first (systemctl stop kubernetes.target), wait for its end, and start it afterwards"
        raise Problem(f"Kubernetes runs: {', '.join(writers)}", hint=hint)
    done = succession.put_back(system, chosen, stamp.read(system) or Stamp(release), release)
    follow.kept(system)  # whoever asked for it reads it
    counts = ", ".join(f"{count} {kind}" for kind, count in (done.get("counts") or {}).items() if count)
    kept = f"; what was there is now snapshot {done['replaced']}" if done.get("replaced") else ""
    return f"{name} is in place; objects lost by it: {counts or done.get('problem') or 'none'}{kept}"
