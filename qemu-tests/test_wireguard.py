"""The pod network over WireGuard, between two booted nodes.

The tests share the machines and depend on their order, because each boot under emulation takes minutes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cable import AGENT, SERVER, Cable, seed_settings
from support.capture import capture_cable
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.pods import FETCH, fetch_in_pod
from support.two_nodes import PODS, NodeFactory, TwoNodes

from osbuild.config.board import Board

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # 10 minutes: two boots
FURTHER = """\
---
apiVersion: v1
kind: Pod
metadata: {name: window}
spec:
  nodeName: site-1-agent
  hostNetwork: true
  containers:
  - name: web
    image: localhost/edge-demo:1
    imagePullPolicy: Never
    env: [{name: ADDRESS, value: ":8081"}, {name: POD_NAME, value: window}]
"""


@pytest.fixture(scope="module")
def nodes(board: Board, distribution: DistributionUnderTest, node_factory: NodeFactory) -> Iterator[TwoNodes]:
    """A server and its agent. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    cable, config = Cable.lay(), json.dumps({"flannel-backend": "wireguard-native"})
    agent_settings = seed_settings(AGENT, server=f"https://{SERVER}:6443", config=config)
    with (
        node_factory.boot("server", SERVER, seed_settings(SERVER, config=config), board=board, link=cable) as server,
        node_factory.boot("agent", AGENT, agent_settings, board=board, link=cable) as agent,
    ):
        yield TwoNodes(server, agent)


def test_pods_of_two_nodes_reach_each_other_over_wireguard(nodes: TwoNodes, board: Board, tmp_path: Path) -> None:
    import_demo(nodes.agent, board, tmp_path)
    nodes.create_pods(f"{PODS}{FURTHER}", "shelf", "counter", "window")
    assert "wireguard" in nodes.agent.run("ip -details link show flannel-wg")
    nodes.check_pods()


def test_the_traffic_between_pods_is_encrypted(nodes: TwoNodes) -> None:
    before = received_bytes(nodes)
    with capture_cable(nodes.server.machine) as capture:
        plain = nodes.server.run(f"python3 -c '{FETCH}' http://{AGENT}:8081/")
        answer = fetch_in_pod(nodes.server, "app=counter", f"http://{nodes.pod_address('shelf')}:8080/")
    assert '"window"' in plain and '"shelf"' in answer
    assert capture.contains('"window"'), "what the nodes say to each other themselves is not encrypted"
    assert not capture.contains('"shelf"')
    data = [datagram for datagram in capture.datagrams if datagram.carries_data]
    assert {(datagram.source, datagram.target) for datagram in data} == {(SERVER, AGENT), (AGENT, SERVER)}
    assert sum(len(datagram.payload) for datagram in data if datagram.source == AGENT) > len(answer)
    assert received_bytes(nodes) - before > len(answer)


def received_bytes(nodes: TwoNodes) -> int:
    """Return what the server's interface of WireGuard has received."""
    return int(nodes.server.run("cat /sys/class/net/flannel-wg/statistics/rx_bytes"))
