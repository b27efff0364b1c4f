"""An agent node joins the server of `test_cluster`. `test_join` tests the same on every board, and more.

The tests go on with the machine of `test_cluster` and depend on their order.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cable import AGENT, SERVER, Cable, seed_settings
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.nodes import Node, ServerNode
from support.pods import fetch_in_pod
from support.two_nodes import PODS, CableNode, boot_agent_alone, boot_on_cable, make_cluster_seed

from osbuild.config.board import Board
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def agent(
    cluster_node: ServerNode, cluster_cable: Cable, cluster_profile: Callable[[str, Board], Path], board: Board,
    distribution: DistributionUnderTest, image: Callable[[str | Path], Path], key: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:  # fmt: skip
    """The agent node, after its first boot. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    profile = cluster_profile("edge-agent", board)
    settings = seed_settings(AGENT, server=f"https://{SERVER}:6443")
    medium = tmp_path_factory.mktemp("agent") / "seed.iso"
    seed = make_cluster_seed(profile, "site-1-agent", key, medium, settings)
    log = f"cluster-agent-{distribution.name}-{board.name}.log"
    config = CableNode(board=board, folder=image(profile), seed=seed, address=AGENT, log=log, memory=2**30)
    with boot_on_cable(config, cluster_cable, key) as node:
        yield node


def test_pods_of_two_nodes_reach_each_other_over_vxlan_and_by_service_name(
    cluster_node: ServerNode, agent: Node, board: Board, tmp_path: Path
) -> None:
    import_demo(agent, board, tmp_path)
    cluster_node.guest.put(PODS.encode(), "/tmp/shelf.yaml")
    cluster_node.kubectl("apply -f /tmp/shelf.yaml")
    cluster_node.kubectl("wait --for=condition=Ready pod/shelf pod/counter --timeout=300s", timeout=330)
    pods = {pod["metadata"]["name"]: pod for pod in json.loads(cluster_node.kubectl("get pods -o json"))["items"]}
    for name, node in (("shelf", "site-1-agent"), ("counter", "site-1")):
        pod_range = cluster_node.kubectl(f"get node {node} -o jsonpath={{.spec.podCIDR}}").strip()
        assert pods[name]["status"]["podIP"].rpartition(".")[0] == pod_range.rpartition(".")[0]
    assert "vxlan" in agent.run("ip -details link show flannel.1")
    address = pods["shelf"]["status"]["podIP"]
    assert "shelf" in fetch_in_pod(cluster_node, "app=counter", f"http://{address}:8080/")
    assert "shelf" in fetch_in_pod(cluster_node, "app=counter", "http://shelf/")
    # The API server reaches the agent's kubelet by its serving certificate.
    cluster_node.kubectl("logs shelf")


def test_the_agent_starts_its_pods_after_a_power_cut_while_the_server_is_off(
    cluster_node: ServerNode, agent: Node, distribution: DistributionUnderTest
) -> None:
    if not distribution.starts_pods_alone:
        pytest.skip(f"agents of {distribution.name} start no pods without their server")
    boot_agent_alone(cluster_node, agent, "shelf")
