"""Data that one release of Kubernetes has had becomes another's: the part that not every boot needs."""

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, restore, snapshot, stamp, versions
from osbuild.agent.kubernetes.stamp import Stamp
from osbuild.agent.kubernetes.versions import Release
from osbuild.agent.system import System

LISTED = 100  # names of lost objects that are written down, of each kind
# What the kubelet remembers of processors and memory that containers have. It refuses to start over a file of another
# form (its own advice then: delete it), and after a boot no container has anything any more.
KUBELET = ("/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state")


def succeed(system: System, release: Release) -> dict[str, Any]:
    """Finish a restore that was cut, then make the data `release`'s. Returns what was done; what was not: `problem`.

    Raises `OSError` where a restore got stuck halfway: Kubernetes must not run until a later boot has finished it.
    """
    facts: dict[str, Any] = {}
    if lost := restore.done(system):
        facts = {"restored": lost}
    try:
        if note := restore.pending(system):
            try:
                facts = {"restored": restore.finish(system, note)}
            except Problem as problem:  # another snapshot may do
                print(f"a restore that was begun is given up: {problem}", file=sys.stderr)
        last = stamp.read(system)
        if last and last.release == release:
            return facts
        facts |= {"from": str(last.release) if last else None, "to": str(release)}
        if last and last.release.minor != release.minor:
            for name in KUBELET:
                system.path(name).unlink(missing_ok=True)
        went = go_back(system, last, release) if last and versions.migrates(release, last.release) else {}
        facts |= went
        if "restored" not in went:
            facts |= go_on(system, last, release)
    except (OSError, Problem) as error:
        if isinstance(error, OSError) and restore.pending(system):
            raise
        facts["problem"] = str(error)
    return facts


def go_on(system: System, last: Stamp | None, release: Release) -> dict[str, Any]:
    """Stamp the data as this release's, after a snapshot where it is newer."""
    facts: dict[str, Any] = {}
    if last and versions.migrates(last.release, release) and versions.role(system) == "server":
        try:
            made = snapshot.take(system, last.release, "boot", needed(system))
            facts["snapshot"] = made.name if made else None
        except (OSError, Problem) as error:  # the one from before the switch is still there
            facts["problem"] = f"no snapshot at boot: {error}"
    file = datastore.file(system)
    now = datastore.state(file) if file else None
    previous = last.release if last else None
    stamp.put(system, Stamp(release, now.revision if now else None, now.schema if now else None, previous))
    return facts


def go_back(system: System, last: Stamp, release: Release) -> dict[str, Any]:
    """Restore for an older `release` than the one of `last`, if it must be.

    Where that can't be, the older one runs on what there is, for good: a restore at a later boot would take away what
    it has written by then.
    """
    if last.revision is None and datastore.file(system) is None:
        return {}  # an agent
    now = None
    try:
        file = datastore.file(system)
        now = datastore.state(file) if file else None
        if now == datastore.State(last.revision or 0, last.schema or ""):
            return {"kept": f"{last.release} had not changed the datastore"}
    except Problem as problem:
        print(f"the datastore that {last.release} leaves is damaged: {problem}", file=sys.stderr)
    chosen = snapshot.usable(system, release)
    why = f"no snapshot that {release} can use"
    try:
        if chosen:
            return {"restored": put_back(system, chosen, last, release)}
    except (OSError, Problem) as error:
        if restore.pending(system):
            raise
        why = f"{error}"
    return {"problem": f"{why}: {release} has to run on what {last.release} has written"}


def put_back(system: System, chosen: snapshot.Snapshot, last: Stamp, release: Release) -> dict[str, Any]:
    """Put a snapshot in the datastore's place, for `release`. What `last.release` has written becomes a snapshot too.

    Nothing of Kubernetes may run. Returns what is restored, and what is lost by it. Raises `Problem` and `OSError`.
    """
    facts = described(system, chosen)
    seen = last.revision or 0
    try:
        if kept := snapshot.take(system, last.release, "replaced", [chosen.name, *needed(system)]):
            facts["replaced"] = kept.name
            seen = max(seen, kept.revision)
    except (OSError, Problem) as error:
        lacking = f"what {last.release} had written is not kept: {error}"
        facts["problem"] = "; ".join(filter(None, (facts.get("problem"), lacking)))
    if file := datastore.file(system):
        with suppress(Problem):
            seen = max(seen, datastore.state(file).revision)
    return restore.begin(system, chosen, release, seen, facts)


def described(system: System, chosen: snapshot.Snapshot) -> dict[str, Any]:
    """A snapshot, and what is lost where it takes the datastore's place: counts, and some of the names."""
    facts: dict[str, Any] = {"snapshot": chosen.name, "release": str(chosen.release), "taken": chosen.taken}
    try:
        file = datastore.file(system)
        lost = asdict(datastore.difference(chosen.database, file)) if file else {}
        facts["lost"] = {kind: list(names[:LISTED]) for kind, names in lost.items()}
        facts["counts"] = {kind: len(names) for kind, names in lost.items()}
    except Problem as problem:
        facts["lost"] = None
        facts["problem"] = f"what is lost is not known: {problem}"
    return facts


def cost(system: System, wanted: str | None = None) -> dict[str, Any] | None:
    """What a rollback to `wanted` would take from the cluster, by default to what ran before; None for nothing.

    Else which snapshot comes back, and what is lost; `problem` where there is none. Raises `Problem`.
    """
    last = stamp.read(system)
    release = Release.parse(wanted) if wanted else last and last.previous
    if not last or not release or not versions.migrates(release, last.release) or datastore.file(system) is None:
        return None
    chosen = snapshot.usable(system, release)
    if chosen is None:
        return {"problem": f"no snapshot that {release} can use: it would run on what {last.release} has written"}
    return described(system, chosen)


def needed(system: System) -> list[str]:
    """The snapshot that a rollback to the release before this one would need: rotation spares it."""
    last = stamp.read(system)
    if last is None or last.previous is None:
        return []
    return [
        one.name for one in snapshot.snapshots(system) if one.release == last.previous and one.reason != "replaced"
    ][:1]
