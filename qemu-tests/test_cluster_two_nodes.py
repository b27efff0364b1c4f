"""An agent node joins the server of `test_cluster`. `test_join` tests the same on every board, and more.

The tests go on with the machine of `test_cluster` and depend on their order.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cable import AGENT, SERVER, Cable, seed_settings
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.nodes import Node, ServerNode
from support.two_nodes import PODS, NodeFactory, TwoNodes, boot_agent_alone

from osbuild.config.board import Board

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def agent(
    cluster_node: ServerNode, cluster_cable: Cable, node_factory: NodeFactory, board: Board,
    distribution: DistributionUnderTest,
) -> Iterator[Node]:  # fmt: skip
    """The agent node, after its first boot. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    settings = seed_settings(AGENT, server=f"https://{SERVER}:6443")
    with node_factory.boot("agent", AGENT, settings, board=board, link=cluster_cable) as node:
        yield node


def test_pods_of_two_nodes_reach_each_other_over_vxlan_and_by_service_name(
    cluster_node: ServerNode, agent: Node, board: Board, tmp_path: Path
) -> None:
    import_demo(agent, board, tmp_path)
    nodes = TwoNodes(cluster_node, agent)
    nodes.create_pods(PODS, "shelf", "counter")
    pods = {pod["metadata"]["name"]: pod for pod in json.loads(cluster_node.kubectl("get pods -o json"))["items"]}
    for name, node in (("shelf", "site-1-agent"), ("counter", "site-1")):
        pod_range = cluster_node.kubectl(f"get node {node} -o jsonpath={{.spec.podCIDR}}").strip()
        assert pods[name]["status"]["podIP"].rpartition(".")[0] == pod_range.rpartition(".")[0]
    assert "vxlan" in agent.run("ip -details link show flannel.1")
    nodes.check_pods()
    # The API server reaches the agent's kubelet by its serving certificate.
    cluster_node.kubectl("logs shelf")


def test_the_agent_starts_its_pods_after_a_power_cut_while_the_server_is_off(
    cluster_node: ServerNode, agent: Node, distribution: DistributionUnderTest
) -> None:
    if not distribution.starts_pods_alone:
        pytest.skip(f"agents of {distribution.name} start no pods without their server")
    boot_agent_alone(cluster_node, agent, "shelf")
