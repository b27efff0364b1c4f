"""The cluster's data under two releases of Kubernetes: an update and a rollback, with real programs on this host.

The tests share one datastore and depend on their order. They need neither machine nor image, but the Go toolchain: each
release is compiled first if it is not in the cache. `test_update_cluster.py` tests the same on machines.
"""

import sqlite3
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from support.control_plane import (
    NODE,
    PODS,
    RELEASES,
    ControlPlane,
    current_revision,
    list_configmaps,
    make_agent_root,
    make_configmap,
    make_node,
    make_pod,
    node_spec,
    play_kubelet,
    wait_for,
    watch_configmaps,
)

from osbuild.agent.cluster import cluster_data, cordon, snapshot
from osbuild.agent.kubernetes import api, datastore, settings
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.versions import KubernetesVersion

pytestmark = pytest.mark.slow

NEW, OLD = (release.version for release in RELEASES[:2])


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    """Values that later tests need from earlier ones."""
    return {}


class Turns:
    """Runs one release at a time; the previous one is stopped first."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.stack = plane, ExitStack()

    def start(self, version: str) -> tuple[ApiServer, dict[str, Any] | None]:
        self.stack.close()
        return self.stack.enter_context(self.plane.run_version(version))


@pytest.fixture(scope="module")
def turns(plane: ControlPlane) -> Iterator[Turns]:
    turns = Turns(plane)
    with turns.stack:
        yield turns


@pytest.fixture(scope="module")
def server(turns: Turns) -> ApiServer:
    """The API server of the old release at its first boot."""
    old_server, outcome = turns.start(OLD)
    assert outcome == {"from": None, "to": f"upstream {OLD}"}
    return old_server


@contextmanager
def run_kubelets(server: ApiServer) -> Iterator[None]:
    """Delete terminating pods in the background, as kubelets do."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.5):
            play_kubelet(server)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def assert_controllers_work(plane: ControlPlane, server: ApiServer, version: str) -> None:
    """Assert that the controller manager and the scheduler of a release accept our arguments and work."""
    namespace = f"of-{version.replace('.', '-')}"
    server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    with plane.run_program("kube-controller-manager", version) as manager:
        wait_for(lambda: manager.poll() is not None or accounts(server, namespace), "no account")
        wait_for(lambda: manager.poll() is not None or accounts(server, "default"), "no account")
    with plane.run_program("kube-scheduler", version):
        assert_schedules(server, namespace)


def accounts(server: ApiServer, namespace: str) -> list[Any]:
    service_accounts: list[Any] = server.call("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts")["items"]
    return service_accounts


def assert_schedules(server: ApiServer, name: str) -> None:
    make_pod(server, name, node=None)
    wait_for(lambda: server.call("GET", f"{PODS}/{name}")["spec"].get("nodeName"), f"{name} is not scheduled")
    server.call("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")


def test_the_old_release_runs_with_our_arguments(plane: ControlPlane, server: ApiServer) -> None:
    make_node(server, NODE)
    assert_controllers_work(plane, server, OLD)
    make_configmap(server, "first")


def test_a_single_node_is_cordoned_keeps_its_pods_and_is_uncordoned(plane: ControlPlane, server: ApiServer) -> None:
    make_pod(server, "web", "ReplicaSet")
    result = cluster_data.prepare_reboot(plane.system, 20, print)
    assert result["cordoned"] and "drain" not in result and result["snapshot"]
    assert node_spec(server)["unschedulable"] and server.call("GET", f"{PODS}/web")
    assert cluster_data.rejoin(plane.system) == {"uncordoned": True}
    assert "unschedulable" not in node_spec(server)


def test_a_kubelets_permissions_suffice_to_drain_its_node_and_disruption_budgets_hold(
    plane: ControlPlane, server: ApiServer, tmp_path: Any
) -> None:
    make_node(server, "node-2")
    for name, owner in (("held", "ReplicaSet"), ("log", "DaemonSet"), ("bare", "")):
        make_pod(server, name, owner, app=name)
    make_pod(server, "elsewhere", "ReplicaSet", node="node-2")
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "held"}}}
    body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": budget}
    server.call("POST", "/apis/policy/v1/namespaces/default/poddisruptionbudgets", body)
    system = make_agent_root(tmp_path, plane, OLD)
    with run_kubelets(server):
        result = cluster_data.prepare_reboot(system, 10, print)
        assert result["cordoned"], result
        assert result["drain"]["moved"] == ["default/web"]
        assert result["drain"]["left"].keys() == {"default/held"}
        assert "disruption budget" in result["drain"]["left"]["default/held"]
    assert {pod["metadata"]["name"] for pod in server.call("GET", PODS)["items"]} == {
        "held",
        "log",
        "bare",
        "elsewhere",
    }
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    with pytest.raises(urllib.error.HTTPError) as caught:
        cordon.cordon_node(system, api.connect_api(system.root, settings.load_settings(system.root)), "node-2")
    assert caught.value.code == 403
    assert "unschedulable" not in node_spec(server, "node-2")


def test_a_snapshot_of_a_datastore_under_writes_is_consistent(plane: ControlPlane, server: ApiServer) -> None:
    stop = threading.Event()
    written: list[str] = []

    def work() -> None:
        while not stop.is_set():
            name = f"n-{len(written):04}"
            make_configmap(server, name)
            written.append(name)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(lambda: len(written) > 5, "nothing is written")
        before = len(written)
        taken = snapshot.take_snapshot(plane.system, KubernetesVersion("upstream", OLD), "asked")
        after = len(written)
        wait_for(lambda: len(written) > after + 5, "nothing is written any more")
    finally:
        stop.set()
        thread.join()
    assert taken
    datastore.verify_database(taken.database)
    with closing(sqlite3.connect(taken.database)) as copy:
        rows = copy.execute("SELECT name FROM kine WHERE name LIKE '/registry/configmaps/default/n-%' ORDER BY id")
        copied = [name.rpartition("/")[2] for (name,) in rows]
    assert copied == written[: len(copied)], "a gap"
    assert before <= len(copied) <= after + 1
    for name in written:
        server.call("DELETE", f"/api/v1/namespaces/default/configmaps/{name}")


def test_the_new_release_continues_with_all_objects(
    plane: ControlPlane, turns: Turns, server: ApiServer, story: dict[str, Any]
) -> None:
    result = cluster_data.prepare_reboot(plane.system, 1, print)
    assert result["snapshot"]
    make_configmap(server, "late")  # after the snapshot, before the reboot
    newer, outcome = turns.start(NEW)
    assert outcome and outcome["to"] == f"upstream {NEW}" and "problem" not in outcome
    assert outcome["snapshot"] != result["snapshot"], "what came late is in one more"
    assert list_configmaps(newer) == ["first", "late"]
    assert node_spec(newer)["unschedulable"], "until the boot is good"
    assert cluster_data.rejoin(plane.system)["uncordoned"]
    assert_controllers_work(plane, newer, NEW)
    make_configmap(newer, "lost")
    newer.call("DELETE", "/api/v1/namespaces/default/configmaps/first")
    story |= {"seen": current_revision(newer), "snapshot": outcome["snapshot"]}


def test_the_changes_that_a_rollback_would_lose_are_known_before(plane: ControlPlane, story: dict[str, Any]) -> None:
    loss = cluster_data.rollback_loss(plane.system)
    assert loss and loss["snapshot"] == story["snapshot"]
    assert "configmaps/default/lost" in loss["lost"]["created"]
    assert "configmaps/default/first" in loss["lost"]["deleted"]


def test_after_a_rollback_the_data_is_restored_and_clients_read_it_again(
    plane: ControlPlane, turns: Turns, story: dict[str, Any]
) -> None:
    """The scheduler stands for all clients that keep running during the rollback: their caches are from the future."""
    with plane.run_program("kube-scheduler", OLD):
        older, outcome = turns.start(OLD)
        assert outcome and outcome["restored"]["snapshot"] == story["snapshot"]
        assert "configmaps/default/lost" in outcome["restored"]["lost"]["created"]
        assert list_configmaps(older) == ["first", "late"]
        assert current_revision(older) > story["seen"], "revisions never go back"
        assert is_expired(older, story["seen"])
        assert node_spec(older)["unschedulable"], "as it was in the snapshot"
        assert cluster_data.rejoin(plane.system)["uncordoned"]
        assert_schedules(older, "after-the-rollback")
    revision = current_revision(older)
    make_configmap(older, "after")
    events = [(event["type"], event["object"]["metadata"]["name"]) for event in watch_configmaps(older, revision)]
    assert events == [("ADDED", "after")]
    assert plane.recorded_version() == f"upstream {OLD}"
    assert "replaced" in [release.reason for release in snapshot.list_snapshots(plane.system)]


def is_expired(server: ApiServer, since: int) -> bool:
    """Whether the server answers a watch from a revision with 410 (expired)."""
    try:
        events = watch_configmaps(server, since)
    except urllib.error.HTTPError as error:
        return error.code == 410
    return [event["object"].get("code") for event in events] == [410]


def test_an_update_after_a_rollback_works_like_the_first(plane: ControlPlane, turns: Turns) -> None:
    newer, outcome = turns.start(NEW)
    assert outcome and outcome["snapshot"] and "problem" not in outcome
    assert list_configmaps(newer) == ["after", "first", "late"]
