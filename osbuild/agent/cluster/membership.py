"""This node as a member of its cluster: leaves it before a switch, and is back after a good boot."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from osbuild.agent.cluster import cordon, drain, snapshot
from osbuild.agent.cluster.migration import needed_snapshots
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import api, versions
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.sizes import format_bytes

ANSWER_TIMEOUT = 30.0  # seconds that a server gets to take what leads to a drain: it may just be starting again
PAUSE = 2.0  # seconds between two questions
T = TypeVar("T")


def prepare_reboot(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """See `osbuild.agent.cluster.cluster_data`."""
    settings = load_settings(system.root)
    if settings.role == "none":
        return {}
    metadata: dict[str, Any] = {}
    started = time.monotonic()
    try:
        metadata |= cordon_and_drain(system, settings, deadline, say)
    except (OSError, Problem) as error:
        metadata["problem"] = api.explain_failure(error)
        say(f"going on without a drain: {metadata['problem']}")
    if settings.role == "server":
        release = versions.running_version(system)
        assert release
        try:
            made = snapshot.take_snapshot(system, release, "update", needed_snapshots(system))
        except (OSError, Problem) as error:
            rejoin(system, patience=10)
            hint = error.hint if isinstance(error, Problem) else None
            raise Problem(f"the cluster's data can't be snapshotted: {error}", hint=hint) from error
        metadata["snapshot"] = made.name if made else None
        say(f"snapshot {made.name}, {format_bytes(made.size)}" if made else "no datastore here to be snapshotted")
    return metadata | {"seconds": round(time.monotonic() - started, 1)}


def cordon_and_drain(
    system: System, settings: NodeSettings, deadline: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Cordon, and drain where there is another node for the pods. All of it gets `deadline` seconds."""
    server, end = api.connect_api(system.root, settings), time.monotonic() + deadline
    name = settings.node_name
    metadata: dict[str, Any] = {
        "cordoned": retry_for(lambda: cordon.cordon_node(system, server, name), min(ANSWER_TIMEOUT, deadline))
    }
    say(f"node {name} is cordoned" if metadata["cordoned"] else f"node {name} was cordoned by somebody else before")
    # An agent must not look at other nodes, but there is one: its server's.
    alone = settings.role != "agent" and not retry_for(
        lambda: cordon.find_other_nodes(server, name), min(ANSWER_TIMEOUT, end - time.monotonic())
    )
    if not alone:
        metadata["drain"] = drain.drain_node(server, name, max(0.0, end - time.monotonic()), say)
        for pod, why in metadata["drain"]["left"].items():
            say(f"pod {pod} goes down with the node: {why}")
    else:
        say("no other node to move pods to: they stop with this one, and start with it")
    return metadata


def rejoin(system: System, patience: float) -> dict[str, Any]:
    """See `osbuild.agent.cluster.cluster_data`."""
    metadata: dict[str, Any] = {}
    try:
        settings = load_settings(system.root)
        if settings.role == "none":
            return {}
        if gone := snapshot.rotate_snapshots(system, needed_snapshots(system)):
            metadata["removed"] = gone
        metadata["uncordoned"] = retry_for(
            lambda: uncordon_self(system, settings), patience if cordon.has_cordon_mark(system) else 0
        )
    except (OSError, Problem) as error:
        if cordon.has_cordon_mark(system):
            metadata["problem"] = f"the node is still cordoned: {api.explain_failure(error)}"
    return metadata


def uncordon_self(system: System, settings: NodeSettings) -> bool:
    return cordon.uncordon_node(system, api.connect_api(system.root, settings), settings.node_name)


def retry_for(ask: Callable[[], T], patience: float) -> T:
    """What `ask` answers, once it does within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            return ask()
        except (OSError, Problem):
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE)
