"""This node as a member of its cluster: leaves it before a switch, and is back after a good boot."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import api, drain, node, snapshot, versions
from osbuild.agent.kubernetes.settings import Settings, load
from osbuild.agent.kubernetes.succession import needed
from osbuild.agent.system import System

ANSWER = 30.0  # seconds that a server gets to take what leads to a drain: it may just be starting again
PAUSE = 2.0  # seconds between two questions
T = TypeVar("T")


def leave(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """See `osbuild.agent.kubernetes.follow`."""
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
            hint = error.hint if isinstance(error, Problem) else None
            raise Problem(f"the cluster's data can't be snapshotted: {error}", hint=hint) from error
        facts["snapshot"] = made.name if made else None
        say(f"snapshot {made.name}, {snapshot.mebi(made.size)}" if made else "no datastore here to be snapshotted")
    return facts | {"seconds": round(time.monotonic() - started, 1)}


def go_idle(system: System, settings: Settings, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Cordon, and drain where there is another node for the pods. All of it gets `deadline` seconds."""
    server, end = api.connect(system.root, settings), time.monotonic() + deadline
    name = settings.node_name
    facts: dict[str, Any] = {"cordoned": patiently(lambda: node.cordon(system, server, name), min(ANSWER, deadline))}
    say(f"node {name} is cordoned" if facts["cordoned"] else f"node {name} was cordoned by somebody else before")
    # An agent must not look at other nodes, but there is one: its server's.
    alone = settings.role != "agent" and not patiently(
        lambda: node.others(server, name), min(ANSWER, end - time.monotonic())
    )
    if not alone:
        facts["drain"] = drain.drain(server, name, max(0.0, end - time.monotonic()), say)
        for pod, why in facts["drain"]["left"].items():
            say(f"pod {pod} goes down with the node: {why}")
    else:
        say("no other node to move pods to: they stop with this one, and start with it")
    return facts


def arrive(system: System, patience: float) -> dict[str, Any]:
    """See `osbuild.agent.kubernetes.follow`."""
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


def patiently(ask: Callable[[], T], patience: float) -> T:
    """What `ask` answers, once it does within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            return ask()
        except (OSError, Problem):
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE)
