"""A server and an agent node in networks behind address translation: the pod network over WireGuard.

The tests share the machines and depend on their order, because each boot under emulation takes minutes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cable import FAR_AGENT, SERVER, seed_settings
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.translated_networks import PUBLIC, TranslatedNetworks
from support.two_nodes import PODS, NodeFactory, TwoNodes

from osbuild.config.board import Board

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # 12 minutes: three boots
CONFIG = {"flannel-backend": "wireguard-native", "flannel-external-ip": True}


@pytest.fixture(scope="module")
def nodes(board: Board, distribution: DistributionUnderTest, node_factory: NodeFactory) -> Iterator[TwoNodes]:
    """Both nodes. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    networks = TranslatedNetworks()
    server_settings = seed_settings(SERVER, config=json.dumps({**CONFIG, "node-external-ip": PUBLIC}))
    agent_settings = seed_settings(FAR_AGENT, server=f"https://{PUBLIC}:6443", config=json.dumps(CONFIG))
    with (
        node_factory.boot("server", SERVER, server_settings, board=board, link=networks) as server,
        node_factory.boot("agent", FAR_AGENT, agent_settings, board=board, link=networks) as agent,
    ):
        yield TwoNodes(server, agent)


def test_pods_reach_each_other_although_only_the_servers_router_forwards_ports(
    nodes: TwoNodes, board: Board, tmp_path: Path
) -> None:
    import_demo(nodes.agent, board, tmp_path)
    nodes.create_pods(PODS, "shelf", "counter")
    nodes.check_pods()
    addresses = json.loads(nodes.server.kubectl("get node site-1-agent -o json"))["status"]["addresses"]
    assert {"type": "InternalIP", "address": FAR_AGENT} in addresses


def test_the_server_finds_an_agent_whose_router_uses_another_port_after_a_power_cut(nodes: TwoNodes) -> None:
    nodes.agent.power_cycle()
    nodes.server.kubectl("wait --for=condition=Ready node/site-1-agent --timeout=300s", timeout=330)
    nodes.server.kubectl("wait --for=condition=Ready pod/shelf --timeout=300s", timeout=330)
    nodes.check_pods()
