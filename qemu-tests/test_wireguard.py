"""The pod network over WireGuard, between two booted nodes.

The tests share the machines and depend on their order, because each boot under emulation takes minutes.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cable import AGENT, SERVER, Cable, seed_settings
from support.capture import capture_cable
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.pods import FETCH, fetch_in_pod
from support.two_nodes import PODS, CableNode, TwoNodes, boot_on_cable, make_cluster_seed

from osbuild.config.board import Board
from osbuild.qemu.ssh import KeyPair

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
---
apiVersion: v1
kind: Service
metadata: {name: counter}
spec: {selector: {app: counter}, ports: [{port: 80, targetPort: 8080}]}
"""
NAMES = ("shelf", "counter", "window")


@pytest.fixture(scope="module")
def nodes(
    board: Board, distribution: DistributionUnderTest, image: Callable[[str | Path], Path],
    cluster_profile: Callable[[str, Board], Path], key: KeyPair, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TwoNodes]:  # fmt: skip
    """A server and its agent. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    server_profile, agent_profile = cluster_profile("edge-server", board), cluster_profile("edge-agent", board)
    seeds, cable = tmp_path_factory.mktemp("seed"), Cable.lay()
    config = json.dumps({"flannel-backend": "wireguard-native"})
    agent_settings = seed_settings(AGENT, server=f"https://{SERVER}:6443", config=config)

    server_config = CableNode(
        board=board,
        folder=image(server_profile),
        seed=make_cluster_seed(
            server_profile, "site-1", key, seeds / "server.iso", seed_settings(SERVER, config=config)
        ),
        address=SERVER,
        log=f"wireguard-server-{distribution.name}-{board.name}.log",
    )
    agent_config = CableNode(
        board=board,
        folder=image(agent_profile),
        seed=make_cluster_seed(agent_profile, "site-1-agent", key, seeds / "agent.iso", agent_settings),
        address=AGENT,
        log=f"wireguard-agent-{distribution.name}-{board.name}.log",
        memory=2**30,
    )
    with boot_on_cable(server_config, cable, key) as server, boot_on_cable(agent_config, cable, key) as agent:
        yield TwoNodes(server, agent)


def test_pods_of_two_nodes_reach_each_other_over_wireguard(nodes: TwoNodes, board: Board, tmp_path: Path) -> None:
    server, agent = nodes.server, nodes.agent
    import_demo(agent, board, tmp_path)
    server.guest.put(f"{PODS}{FURTHER}".encode(), "/tmp/pods.yaml")
    server.kubectl("apply -f /tmp/pods.yaml")
    wait_for_pods(nodes)
    assert "wireguard" in agent.run("ip -details link show flannel-wg")
    check_pods(nodes)


def test_the_traffic_between_pods_is_encrypted(nodes: TwoNodes) -> None:
    before = received_bytes(nodes)
    with capture_cable(nodes.server.machine) as capture:
        plain = nodes.server.run(f"python3 -c '{FETCH}' http://{AGENT}:8081/")
        answer = fetch_in_pod(nodes.server, "app=counter", f"http://{pod_address(nodes, 'shelf')}:8080/")
    assert '"window"' in plain and '"shelf"' in answer
    assert capture.contains('"window"'), "what the nodes say to each other themselves is not encrypted"
    assert not capture.contains('"shelf"')
    data = [datagram for datagram in capture.datagrams if datagram.carries_data]
    assert {(datagram.source, datagram.target) for datagram in data} == {(SERVER, AGENT), (AGENT, SERVER)}
    assert sum(len(datagram.payload) for datagram in data if datagram.source == AGENT) > len(answer)
    assert received_bytes(nodes) - before > len(answer)


def wait_for_pods(nodes: TwoNodes) -> None:
    """Wait until all pods are ready."""
    nodes.server.kubectl("wait --for=condition=Ready node/site-1-agent --timeout=300s", timeout=330)
    for name in NAMES:
        nodes.server.kubectl(f"wait --for=condition=Ready pod/{name} --timeout=300s", timeout=330)


def pod_address(nodes: TwoNodes, name: str) -> str:
    return nodes.server.kubectl(f"get pod {name} -o jsonpath={{.status.podIP}}").strip()


def check_pods(nodes: TwoNodes) -> None:
    """Let the pods of both nodes ask each other, by address and by name. The DNS server is a pod of the server."""
    for url in (f"http://{pod_address(nodes, 'shelf')}:8080/", "http://shelf/"):
        assert '"shelf"' in fetch_in_pod(nodes.server, "app=counter", url)
    for url in (f"http://{pod_address(nodes, 'counter')}:8080/", "http://counter/"):
        assert '"counter"' in fetch_in_pod(nodes.agent, "app=shelf", url, api=nodes.server)


def received_bytes(nodes: TwoNodes) -> int:
    """Return what the server's interface of WireGuard has received."""
    return int(nodes.server.run("cat /sys/class/net/flannel-wg/statistics/rx_bytes"))
