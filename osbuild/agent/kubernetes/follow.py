"""The cluster's state follows the system's: what an update calls before a switch, at boot, and after a good boot.

refusal ── before anything is written: may this node get that release of Kubernetes?
leave ──── before the switch: cordon, drain, snapshot
reconcile  at every boot, before Kubernetes: snapshot for what is newer, restore for what is older
arrive ─── after a good boot, whichever slot it is: uncordon, remove snapshots that are too many
cost ───── what a rollback would lose, to be shown before it
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from osbuild.agent.kubernetes import api, datastore, drain, node, restore, snapshot, stamp, versions
from osbuild.agent.kubernetes.settings import Problem, Settings, load
from osbuild.agent.kubernetes.stamp import Stamp
from osbuild.agent.kubernetes.versions import Release
from osbuild.agent.system import System

LISTED = 100  # names of lost objects that are written down, of each kind
# What the kubelet remembers of processors and memory that containers have. It refuses to start over a file of another
# form (its own advice then: delete it), and after a boot no container has anything any more.
KUBELET = ("/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state")


def refusal(system: System, wanted: str) -> str | None:
    """Why this node must not get an image with `wanted`, as a bundle's `[meta.edge] kubernetes` has it; None if it may.

    Neither older than what runs or what the datastore has seen, nor another distribution, nor more than one minor
    version on.
    """
    last = stamp.read(system)
    try:
        known = [versions.running(system), last.release if last else None]
    except Problem as problem:
        return str(problem)
    return next((reason for release in known if (reason := versions.refusal(release, wanted))), None)


def leave(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Have the cluster ready for this node's reboot into another slot. `say` is told of progress.

    At most `deadline` seconds are spent waiting for pods. A cluster that does not answer holds up nothing: an update
    may be what mends it. Raises `Problem` where the datastore can't be snapshotted; then the node is as it was before.
    Whoever calls it must call `arrive` if there is no switch after all.
    """
    settings = load(system.root)
    if settings.role == "none":
        return {}
    facts: dict[str, Any] = {}
    started = time.monotonic()
    try:
        facts |= go_idle(system, settings, deadline, say)
    except (OSError, Problem) as error:
        facts["problem"] = api.reason(error)
        say(f"going on without a drain: {facts['problem']}")
    if settings.role == "server":
        release = versions.running(system)
        assert release
        try:
            made = snapshot.take(system, release, "update", needed(system))
        except (OSError, Problem) as error:
            arrive(system, patience=10)
            raise Problem(f"the cluster's data can't be snapshotted: {error}") from error
        facts["snapshot"] = made.name if made else None
        say(f"snapshot {made.name}, {snapshot.mebi(made.size)}" if made else "no datastore here to be snapshotted")
    return facts | {"seconds": round(time.monotonic() - started, 1)}


def go_idle(system: System, settings: Settings, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Cordon, and drain where there is another node for the pods."""
    server = api.connect(system.root, settings)
    name = settings.node_name
    facts: dict[str, Any] = {"cordoned": node.cordon(system, server, name)}
    say(f"node {name} is cordoned" if facts["cordoned"] else f"node {name} was cordoned by somebody else before")
    # An agent must not look at other nodes, but there is one: its server's.
    if settings.role == "agent" or node.others(server, name):
        facts["drain"] = drain.drain(server, name, deadline, say)
        for pod, why in facts["drain"]["left"].items():
            say(f"pod {pod} goes down with the node: {why}")
    else:
        say("no other node to move pods to: they stop with this one, and start with it")
    return facts


def reconcile(system: System) -> dict[str, Any] | None:
    """Bring the data of Kubernetes to the release of this slot, before anything of Kubernetes runs.

    Before a newer release gets at the data, a snapshot is taken, unless there is one already. An older one gets the
    newest snapshot that it can use, if and only if the newer release has changed the datastore in the meantime: rows or
    tables. What can't be done is said under `problem`, and Kubernetes runs on what there is. Returns what was done,
    None where that was nothing.
    """
    release = versions.running(system)
    if release is None:
        return None
    facts: dict[str, Any] = {}
    try:
        if note := restore.pending(system):
            facts = {"restored": restore.finish(system, note)}
        last = stamp.read(system)
        if last and last.release == release:
            return facts or None
        facts |= {"from": str(last.release) if last else None, "to": str(release)}
        if last and last.release.minor != release.minor:
            for name in KUBELET:
                system.path(name).unlink(missing_ok=True)
        facts |= go_back(system, last, release) if last and versions.migrates(release, last.release) else {}
        if "restored" not in facts:
            facts |= go_on(system, last, release)
    except (OSError, Problem) as error:
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
    """Restore for an older `release` than the one of `last`, if it must be."""
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
    if chosen is None:
        return {"problem": f"no snapshot that {release} can use: it has to run on what {last.release} has written"}
    return {"restored": put_back(system, chosen, last, release)}


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


def arrive(system: System, patience: float = 60) -> dict[str, Any]:
    """Undo what `leave` did: uncordon the node if it was us who cordoned it, and remove snapshots that are too many.

    Asks for `patience` seconds. Raises nothing: `problem` says why the node may still be cordoned, so that it must be
    called again, as `edge-kubernetes-uncordon.service` does after every boot.
    """
    facts: dict[str, Any] = {}
    try:
        settings = load(system.root)
        if settings.role == "none":
            return {}
        if gone := snapshot.rotate(system, needed(system)):
            facts["removed"] = gone
        facts["uncordoned"] = patiently(lambda: uncordon(system, settings), patience if node.marked(system) else 0)
    except (OSError, Problem) as error:
        if node.marked(system):
            facts["problem"] = f"the node is still cordoned: {api.reason(error)}"
    return facts


def uncordon(system: System, settings: Settings) -> bool:
    return node.uncordon(system, api.connect(system.root, settings), settings.node_name)


def patiently(ask: Callable[[], bool], patience: float) -> bool:
    """What `ask` answers, once it does within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            return ask()
        except (OSError, Problem):
            if time.monotonic() >= end:
                raise
            time.sleep(2)


def needed(system: System) -> list[str]:
    """The snapshot that a rollback to the release before this one would need: rotation spares it."""
    last = stamp.read(system)
    if last is None or last.previous is None:
        return []
    return [
        one.name for one in snapshot.snapshots(system) if one.release == last.previous and one.reason != "replaced"
    ][:1]
