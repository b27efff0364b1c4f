"""Prepares this node for a reboot (cordon, drain, snapshot), and lets it rejoin its cluster afterwards."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from osbuild.agent.cluster import cordon, drain, etcd_rollback, etcd_snapshot, snapshot, update_turn
from osbuild.agent.cluster.migration import needed_snapshots
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import api, certificates, versions
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.sizes import format_bytes

ANSWER_TIMEOUT = 30.0  # seconds for requests before the drain; the server may be starting again
PAUSE = 2.0  # seconds between two attempts
T = TypeVar("T")


def prepare_reboot(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """See `osbuild.agent.cluster.cluster_data`."""
    settings = load_settings(system.root)
    if settings.role == "none":
        return {}
    result: dict[str, Any] = {}
    started = time.monotonic()
    if settings.role == "server" and has_other_servers(system, settings):
        await_turn(system, settings, say)
    try:
        result |= cordon_and_drain(system, settings, deadline, say)
    except (OSError, Problem) as error:
        result["problem"] = api.explain_failure(error)
        say(f"the node is not drained: {result['problem']}")
    if settings.role == "server":
        kubernetes = versions.running_version(system)
        assert kubernetes
        try:
            taken = (
                snapshot_etcd(system, kubernetes, say)
                if etcd_snapshot.has_etcd(system)
                else snapshot.take_snapshot(system, kubernetes, "update", needed_snapshots(system))
            )
        except (OSError, Problem) as error:
            rejoin(system, patience=10)
            hint = error.hint if isinstance(error, Problem) else None
            raise Problem(f"no snapshot of the cluster data can be taken: {error}", hint=hint) from error
        result["snapshot"] = taken.name if taken else None
        say(f"snapshot {taken.name}, {format_bytes(taken.size)}" if taken else "no snapshot is taken")
    return result | {"seconds": round(time.monotonic() - started, 1)}


def snapshot_etcd(
    system: System, kubernetes: versions.KubernetesVersion, say: Callable[[str], None]
) -> etcd_snapshot.EtcdSnapshot | None:
    """Take a snapshot of etcd for a rollback to `kubernetes`; None if that fails. Raises `OSError`."""
    # Other servers have the same data, and a member that has failed may need the update.
    taken = None
    try:
        taken = etcd_snapshot.take_snapshot(system, etcd_snapshot.SnapshotReason.UPDATE)
    except Problem as problem:
        say(f"etcd gives no snapshot: {problem}")
    etcd_rollback.store_point(system, taken, kubernetes)
    return taken


def has_other_servers(system: System, settings: NodeSettings) -> bool:
    """Whether the datastore of this server node may be shared with other servers."""
    return not certificates.has_own_datastore(settings, Paths(system.root))


def await_turn(system: System, settings: NodeSettings, say: Callable[[str], None]) -> None:
    """Wait until this server may be updated. A dead cluster may need the update. Raises `Problem`."""
    try:
        server = api.connect_api(system.root, settings)
    except (OSError, Problem) as error:
        say(f"no other server is waited for: {api.explain_failure(error)}")
        return
    try:
        # After a power cut, and if somebody else has cordoned the node, the mark is why the next boot ends the turn.
        cordon.write_cordon_mark(system)
        update_turn.await_turn(server, settings.node_name, say)
    except OSError as error:
        say(f"no other server is waited for: {api.explain_failure(error)}")


def cordon_and_drain(
    system: System, settings: NodeSettings, deadline: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Cordon the node, and drain it if another node accepts its pods; both within `deadline` seconds.

    Raises `OSError` and `Problem`.
    """
    server, end = api.connect_api(system.root, settings), time.monotonic() + deadline
    name = settings.node_name
    result: dict[str, Any] = {
        "cordoned": retry_for(lambda: cordon.cordon_node(system, server, name), min(ANSWER_TIMEOUT, deadline))
    }
    say(f"node {name} is cordoned" if result["cordoned"] else f"node {name} was already cordoned by somebody else")
    # An agent node may not list other nodes, but it has at least one: its server node.
    is_single_node = settings.role != "agent" and not retry_for(
        lambda: cordon.find_other_nodes(server, name), min(ANSWER_TIMEOUT, end - time.monotonic())
    )
    if not is_single_node:
        result["drain"] = drain.drain_node(server, name, max(0.0, end - time.monotonic()), say)
        for pod, reason in result["drain"]["left"].items():
            say(f"pod {pod} stays on the node: {reason}")
    else:
        say("no other node accepts pods; they are restarted with this node")
    return result


def rejoin(system: System, patience: float) -> dict[str, Any]:
    """See `osbuild.agent.cluster.cluster_data`."""
    result: dict[str, Any] = {}
    try:
        settings = load_settings(system.root)
        if settings.role == "none":
            return {}
        if removed := snapshot.rotate_snapshots(system, needed_snapshots(system)):
            result["removed"] = removed
        result["uncordoned"] = retry_for(
            lambda: uncordon_self(system, settings), patience if cordon.has_cordon_mark(system) else 0
        )
    except (OSError, Problem) as error:
        if cordon.has_cordon_mark(system):
            result["problem"] = f"the node is still cordoned: {api.explain_failure(error)}"
    return result


def uncordon_self(system: System, settings: NodeSettings) -> bool:
    """Uncordon this node, and end its turn to be updated. Raises `OSError` and `Problem`."""
    server = api.connect_api(system.root, settings)
    if settings.role == "server" and has_other_servers(system, settings):
        update_turn.release_lease(server, settings.node_name)
    return cordon.uncordon_node(system, server, settings.node_name)


def retry_for(action: Callable[[], T], patience: float) -> T:
    """Call `action` until it succeeds, for up to `patience` seconds. Raises its last `OSError` or `Problem`."""
    end = time.monotonic() + patience
    while True:
        try:
            return action()
        except (OSError, Problem):
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE)
