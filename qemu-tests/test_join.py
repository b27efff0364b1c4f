"""A second machine joins the cluster of the first: the shipped `edge-agent` and `edge-server` images on one cable.

The board under test is the agent's; the server has the same, unless `matrix.SERVERS` names another. The tests share the
machines and depend on their order, because each boot under emulation takes a minute.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cable import AGENT, SERVER, Cable, seed_settings
from support.demo import import_demo
from support.distributions import DistributionUnderTest
from support.matrix import SERVERS
from support.nodes import BOOT, CONNECT, DEPLOYMENT
from support.two_nodes import NodeFactory, TwoNodes, boot_agent_alone

from osbuild.config.board import Board, load_board
from osbuild.host.paths import PROJECT
from osbuild.host.run import run_command

pytestmark = pytest.mark.slow  # 4 to 6 minutes: three boots, two of them side by side
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: site-1-agent
  containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never, ports: [{containerPort: 8080}]}]
"""


@pytest.fixture(scope="module")
def cluster(board: Board, node_factory: NodeFactory) -> Iterator[TwoNodes]:
    """A server and its agent, which boots once the server is Ready, so that two boots don't share the processors."""
    cable = Cable.lay()
    host = load_board(SERVERS.get(board.name, board.name))
    settings = seed_settings(AGENT, server=f"https://{SERVER}:6443", labels='{"place": "shelf"}')
    with (
        node_factory.boot("server", SERVER, seed_settings(SERVER), board=host, link=cable) as server,
        node_factory.boot("agent", AGENT, settings, board=board, link=cable) as agent,
    ):
        yield TwoNodes(server, agent)


def test_the_agent_is_a_ready_node_of_the_server(cluster: TwoNodes) -> None:
    items = json.loads(cluster.server.kubectl("get nodes -o json"))["items"]
    nodes = {item["metadata"]["name"]: item for item in items}
    assert set(nodes) == {"site-1", "site-1-agent"}
    agent = nodes["site-1-agent"]
    assert agent["metadata"]["labels"]["place"] == "shelf"
    assert {"type": "InternalIP", "address": AGENT} in agent["status"]["addresses"]
    assert [c["status"] for c in agent["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
    assert cluster.agent.status()["health"]["healthy"] is True


def test_the_agent_has_only_the_permissions_of_its_own_node(
    cluster: TwoNodes, distribution: DistributionUnderTest
) -> None:
    kubectl = f"kubectl --kubeconfig {distribution.agent_kubeconfig}"
    assert cluster.agent.run(f"{kubectl} auth whoami -o jsonpath={{.status.userInfo.username}}") == (
        "system:node:site-1-agent"
    )
    # A kubelet may read what its own pods need, and not the secrets of the cluster.
    cluster.agent.run_failing(f"{kubectl} get secrets -A")


def test_a_pod_runs_on_the_agent_and_answers_agent_and_server(cluster: TwoNodes, board: Board, tmp_path: Path) -> None:
    import_demo(cluster.agent, board, tmp_path)
    cluster.server.guest.run("cat > /tmp/pod.yaml", input=POD)
    cluster.server.kubectl("apply -f /tmp/pod.yaml")
    cluster.server.kubectl("wait --for=condition=Ready pod/web --timeout=300s", timeout=330)
    address = cluster.server.kubectl("get pod web -o jsonpath={.status.podIP}").strip()
    agent_range = cluster.server.kubectl("get node site-1-agent -o jsonpath={.spec.podCIDR}").strip()
    assert address.rpartition(".")[0] == agent_range.rpartition(".")[0] != "10.42.0"
    get = f"import urllib.request; print(urllib.request.urlopen('http://{address}:8080/', timeout=10).read().decode())"
    assert "web" in cluster.agent.guest.run(f'python3 -c "{get}"').stdout
    assert "web" in cluster.server.guest.run(f'python3 -c "{get}"').stdout
    # The API server reaches the agent's kubelet by its serving certificate.
    assert cluster.server.kubectl("logs web") is not None


def test_an_update_of_the_agent_moves_its_pods_to_the_server_first(
    cluster: TwoNodes, board: Board, images: Callable[[str | Path, Board], Path],
    cluster_profile: Callable[[str, Board], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """The bundle is of the image that runs, because nothing is booted here."""
    bundle, server = tmp_path / "agent.raucb", cluster.server
    run_command(
        [sys.executable, "-m", "osbuild", "bundle", images(cluster_profile("edge-agent", board), board), "-o", bundle],
        cwd=PROJECT,
    )
    cluster.agent.guest.put(bundle, "/var/tmp/agent.raucb", timeout=BOOT)
    server.kubectl("cordon site-1")
    server.guest.run("cat > /tmp/moving.yaml", input=DEPLOYMENT.replace("name: web}\nspec", "name: moving}\nspec"))
    server.kubectl("apply -f /tmp/moving.yaml")
    server.wait_rolled_out("moving")
    server.kubectl("uncordon site-1")
    cluster.agent.run("edge-agent update install /var/tmp/agent.raucb --no-reboot", timeout=BOOT)
    rows = json.loads(cluster.agent.run("edge-agent update history --json"))
    departure = next(row["cluster"] for row in rows if row["event"] == "switched")
    assert departure["cordoned"] and [name.startswith("default/moving-") for name in departure["drain"]["moved"]] == [
        True
    ], departure
    assert not departure["drain"]["left"] and "snapshot" not in departure, "an agent has no datastore"
    server.wait_rolled_out("moving")
    query = "get pods -l app=web --field-selector spec.nodeName=site-1,status.phase=Running -o name"
    assert "moving" in server.kubectl(query)
    server.kubectl("wait --for=jsonpath={.spec.unschedulable}=true node/site-1-agent --timeout=10s")
    cluster.agent.run("edge-agent rollback")
    node = json.loads(server.kubectl("get node site-1-agent -o json"))
    assert not node["spec"].get("unschedulable"), "it is not booted, so it is back in its cluster"


def test_an_agent_rejoins_by_itself_after_a_power_cut(cluster: TwoNodes) -> None:
    cluster.agent.power_cycle()
    cluster.server.kubectl("wait --for=condition=Ready node/site-1-agent --timeout=300s", timeout=330)
    names = cluster.server.kubectl("get nodes -o name").split()
    assert sorted(names) == ["node/site-1", "node/site-1-agent"]


def test_an_agent_starts_its_pods_after_a_power_cut_while_its_server_is_off(
    cluster: TwoNodes, distribution: DistributionUnderTest
) -> None:
    if not distribution.starts_pods_alone:
        pytest.skip(f"agents of {distribution.name} start no pods without their server")
    server, agent = cluster.server, cluster.agent
    server.kubectl("wait --for=condition=Ready pod/web --timeout=300s", timeout=330)
    before = boot_agent_alone(server, agent, "web")
    server.machine.boot_again()
    server.wait_complete()
    server.guest.wait_ready(CONNECT)
    server.kubectl("wait --for=condition=Ready node/site-1-agent --timeout=300s", timeout=330)
    server.kubectl("wait --for=condition=Ready pod/web --timeout=300s", timeout=330)
    pod = json.loads(server.kubectl("get pod web -o json"))
    assert pod["metadata"]["uid"] == before and pod["status"]["containerStatuses"][0]["restartCount"] > 0
