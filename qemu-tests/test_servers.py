"""Three servers with embedded etcd: real programs in network namespaces of this host. The tests need their order."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.control_plane import wait_for
from support.servers import ClusterNode, running_network

from osbuild.agent.cluster import etcd_rollback, etcd_snapshot
from osbuild.agent.cluster.etcd_members import count_members
from osbuild.agent.cluster.etcd_snapshot import EtcdSnapshot, SnapshotReason
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System

TOKEN = "the token of servers"
AGENT_TOKEN = "the token of agent nodes"
pytestmark = pytest.mark.slow  # three API servers on one host: some minutes


@dataclass
class EtcdCluster:
    servers: list[ClusterNode]
    agent: ClusterNode

    def others(self, *absent: ClusterNode) -> list[ClusterNode]:
        return [node for node in self.servers if node not in absent]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Four machines that are off."""
    with running_network() as network:
        nodes = [ClusterNode(tmp_path_factory.mktemp(f"node-{n}"), n, network.add_host(n)) for n in (1, 2, 3, 4)]
        tokens = {"token": TOKEN, "agent_token": AGENT_TOKEN}
        nodes[0].make("server", {"cluster-init": True}, tokens)
        every_minute = {"etcd-snapshot-schedule-cron": "* * * * *", "etcd-snapshot-retention": 1}
        for node in nodes[1:3]:
            node.make("server", every_minute, {**tokens, "server": nodes[0].url})
        nodes[3].make("agent", {}, {"agent_token": AGENT_TOKEN, "server": nodes[0].url})
        try:
            yield EtcdCluster(nodes[:3], nodes[3])
        finally:
            for node in nodes:
                node.kill()


def create(node: ClusterNode, name: str) -> None:
    node.kubectl("create", "configmap", name, "--from-literal=value=x")


def names(node: ClusterNode) -> set[str]:
    return {item["metadata"]["name"] for item in node.get("configmaps")["items"]} - {"kube-root-ca.crt"}


def test_three_servers_form_one_cluster(cluster: EtcdCluster) -> None:
    first, *others = cluster.servers
    first.agent("prepare")
    first.start()
    first.await_ready()
    first.add_node_object()
    create(first, "first")
    for node in others:
        node.agent("prepare")
        assert not (node.root / "run/edge-osbuild/kubernetes/server.json").exists(), "it has no keys yet"
        node.agent("join", "--patience", "60")
        node.start()
        node.await_ready()
        node.add_node_object()
        assert names(node) == {"first"}
    members = first.members()
    assert sorted(member["node"] for member in members) == ["node-1", "node-2", "node-3"]
    assert all(member["healthy"] and not member["learner"] for member in members), members
    create(others[1], "third")
    assert all("third" in names(node) for node in cluster.servers)
    labels = [node["metadata"]["labels"] for node in first.get("nodes")["items"]]
    assert all("node-role.kubernetes.io/etcd" in each for each in labels)


def test_the_servers_have_the_same_keys(cluster: EtcdCluster) -> None:
    for name in ("ca.key", "sa.key", "front-proxy-ca.key", "etcd-ca.key", "secrets-encryption.json"):
        paths = [node.root / "var/lib/kubernetes/pki" / name for node in cluster.servers]
        assert len({path.read_text() for path in paths}) == 1, name
        assert all(path.stat().st_mode & 0o077 == 0 for path in paths), name
    certificates = {(node.root / "var/lib/kubernetes/pki/etcd-server.crt").read_text() for node in cluster.servers}
    assert len(certificates) == 3


def test_one_server_at_a_time_runs_the_controllers(cluster: EtcdCluster) -> None:
    first = cluster.servers[0]
    for name in ("kube-controller-manager", "kube-scheduler"):
        lease = first.get("lease", "-n", "kube-system", name)
        assert lease["spec"]["holderIdentity"].partition("_")[0]
    wait_for(lambda: "default" in first.kubectl("get", "serviceaccounts").stdout, "the controllers run")


OBSTACLE = """
import sys
from pathlib import Path
from osbuild.agent.cluster import update_turn
from osbuild.agent.kubernetes.api import connect_api
from osbuild.agent.kubernetes.settings import load_settings
root, action = Path(sys.argv[1]), sys.argv[2]
settings = load_settings(root)
print(getattr(update_turn, action)(connect_api(root, settings), settings.node_name))
"""


def take_turn(cluster: EtcdCluster, node: ClusterNode, action: str = "find_obstacle") -> str:
    """Why a server may not be updated now, "None" if it may."""
    for other in cluster.servers:
        other.report_ready(node)  # as its kubelet would
    return node.run(sys.executable, "-c", OBSTACLE, node.root, action).stdout.strip()


def test_one_server_at_a_time_is_updated(cluster: EtcdCluster) -> None:
    first, second, _ = cluster.servers
    assert take_turn(cluster, first) == "None"
    assert take_turn(cluster, second) == "server node-1 is being updated"
    take_turn(cluster, first, "release_lease")
    assert take_turn(cluster, second) == "None"
    take_turn(cluster, second, "release_lease")


def test_an_agent_node_learns_all_servers(cluster: EtcdCluster) -> None:
    agent, first = cluster.agent, cluster.servers[0]
    agent.agent("prepare")
    arguments = (first.root / "run/edge-osbuild/kubernetes/join.env").read_text().removeprefix("ARGS=").split()
    approver = first.background(first.root / "usr/lib/edge-osbuild/edge-node", *arguments)
    agent.agent("join", "--patience", "60")
    first.end(approver)
    agent.agent("prepare")
    agent.start("node", only=("local-api",))
    servers = agent.root / "var/lib/kubernetes/servers.json"
    wait_for(servers.exists, "the list of servers is stored")
    hosts = sorted(node.url.removeprefix("https://") for node in cluster.servers)
    wait_for(lambda: json.loads(servers.read_text()) == hosts, servers.read_text(), 90)


def ask_as_agent(cluster: EtcdCluster) -> str:
    """What an agent node's programs get from the proxy on the node, with the kubelet's rights."""
    kubeconfig = str(cluster.agent.root / "run/edge-osbuild/kubernetes/node.conf")
    return cluster.agent.kubectl("--kubeconfig", kubeconfig, "get", "services", "-o", "name", check=False).stdout


def test_when_a_server_is_killed_the_others_go_on(cluster: EtcdCluster) -> None:
    killed, *others = cluster.servers
    killed.kill()
    wait_for(lambda: "kubernetes" in ask_as_agent(cluster), "the agent uses another server", 60)

    def written() -> bool:
        return others[0].kubectl("create", "configmap", "without-the-first", check=False).returncode == 0

    wait_for(written, "another server writes", 60)
    assert "without-the-first" in names(others[1])
    # With etcd all others have to be ready, not only a majority.
    assert "these are not ready: node-1" in take_turn(cluster, others[0])


def test_an_agent_starts_while_its_first_server_is_off(cluster: EtcdCluster) -> None:
    cluster.agent.kill()
    cluster.agent.agent("prepare")
    cluster.agent.agent("join", "--patience", "10")
    cluster.agent.start("node", only=("local-api",))
    wait_for(lambda: "kubernetes" in ask_as_agent(cluster), "the agent uses another server", 60)
    cluster.agent.kubectl("--kubeconfig", str(cluster.agent.root / "run/edge-osbuild/kubernetes/node.conf"),
                          "get", "services", "kubernetes")  # fmt: skip


def test_a_killed_server_comes_back_with_what_was_written_meanwhile(cluster: EtcdCluster) -> None:
    first = cluster.servers[0]
    first.agent("prepare")
    first.start()
    first.await_ready()
    assert "without-the-first" in names(first)
    assert all(member["healthy"] for member in first.members())


def test_a_deleted_node_is_no_member_any_more_and_joins_again(cluster: EtcdCluster) -> None:
    first, _, third = cluster.servers
    name = next(member["name"] for member in first.members() if member["node"] == "node-3")
    first.kubectl("delete", "node", "node-3")
    wait_for(lambda: "node-3" not in {member["node"] for member in first.members()}, "it is removed", 60)
    wait_for(lambda: not third.is_running(), "its programs end", 60)
    third.processes.clear()
    third.start()  # as systemd does
    third.await_ready()
    members = {member["node"]: member for member in first.members()}
    assert members["node-3"]["healthy"] and members["node-3"]["name"] != name
    third.add_node_object()
    assert "without-the-first" in names(third)


def test_a_server_with_a_wrong_token_gets_no_keys(cluster: EtcdCluster, tmp_path: Path) -> None:
    stranger = ClusterNode(tmp_path, 2, cluster.servers[1].namespace)
    for number, token in enumerate(("wrong", AGENT_TOKEN)):
        stranger.root = tmp_path / str(number)
        stranger.root.mkdir()
        stranger.make("server", {}, {"token": token, "server": cluster.servers[0].url})
        stranger.agent("prepare")
        result = stranger.agent("join", "--patience", "0", check=False)
        assert result.returncode and "does not know this token" in result.stderr
        assert not (stranger.root / "var/lib/kubernetes/pki").exists()


def test_snapshots_are_taken_by_the_schedule_and_old_ones_are_removed(cluster: EtcdCluster) -> None:
    second = cluster.servers[1]

    def scheduled() -> list[str]:
        rows = json.loads(second.agent("snapshots", "--json").stdout)
        return [row["name"] for row in rows if row["reason"] == "etcd-snapshot"]

    first = wait_for(scheduled, "a snapshot of the schedule", 90)
    wait_for(lambda: (names := scheduled()) and names != first and len(names) == 1, "the next one replaces it", 90)
    folder = second.root / "var/lib/kubernetes/server/db/snapshots"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))


def revision_of(node: ClusterNode) -> int:
    answer = node.kubectl("get", "--raw", "/api/v1/namespaces/default/configmaps").stdout
    return int(json.loads(answer)["metadata"]["resourceVersion"])


def test_a_snapshot_is_restored_and_the_other_servers_join_again(cluster: EtcdCluster) -> None:
    first, second, third = cluster.servers
    name = first.agent("snapshot").stdout.partition(",")[0]
    create(first, "after-the-snapshot")
    revision = revision_of(first)
    for node in cluster.servers:
        node.kill()
    system, database = System(first.root), Paths(first.root).etcd / etcd_snapshot.DATABASE
    older = KubernetesVersion("upstream", "v1.35.4")
    etcd_rollback.store_point(system, EtcdSnapshot(name, SnapshotReason.ASKED, "2026-11-30T00:00:00+00:00", 1), older)
    assert count_members(database) == 3
    assert etcd_rollback.find_point(system, older) is None, "a rollback would part it from the others"
    next_step = etcd_snapshot.restore_snapshot(System(first.root), name)
    assert "remove /var/lib/kubernetes/server/db/etcd" in next_step
    point = etcd_rollback.find_point(system, older)
    assert count_members(database) == 1 and point and point.snapshot == name
    first.start()
    first.await_ready()
    assert "without-the-first" in names(first) and "after-the-snapshot" not in names(first)
    assert revision_of(first) > revision, "clients read everything again"
    assert [member["node"] for member in first.members()] == ["node-1"]
    for node in (second, third):
        shutil.rmtree(node.root / "var/lib/kubernetes/server/db/etcd")
        node.start()
        node.await_ready()
    assert len(first.members()) == 3 and names(first) == names(second) == names(third)
