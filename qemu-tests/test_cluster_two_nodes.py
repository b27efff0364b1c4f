"""An agent node joins the server of `test_cluster`. `test_join` tests the same on every board, and more.

The tests go on with the machine of `test_cluster` and depend on their order.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.agent_alone import boot_agent_alone
from support.cable import AGENT, SERVER, TOKEN, Cable, seed_settings
from support.demo import import_demo
from support.distributions import DistributionUnderTest, missing_addons
from support.nodes import CONNECT, LOGS_FOLDER, USER, Node, ServerNode, make_seed
from test_cluster_addons import FETCH, in_pod

from osbuild.config.board import Board
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.alone
POD = """
apiVersion: v1
kind: Pod
metadata: {name: shelf, labels: {app: shelf}}
spec:
  nodeName: site-1-agent
  containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: counter, labels: {app: counter}}
spec:
  nodeName: site-1
  containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never}]
---
apiVersion: v1
kind: Service
metadata: {name: shelf}
spec: {selector: {app: shelf}, ports: [{port: 80, targetPort: 8080}]}
"""


@pytest.fixture(scope="module")
def agent(
    cluster_node: ServerNode, cluster_cable: Cable, cluster_profile: Callable[[str, Board], Path], board: Board,
    distribution: DistributionUnderTest, image: Callable[[str | Path], Path], qemu: Emulator, accelerator: Accelerator,
    key: KeyPair, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:  # fmt: skip
    """The agent node, after its first boot. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    profile = cluster_profile("edge-agent", board)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, "a secret that both know")
        settings = seed_settings(AGENT, server=f"https://{SERVER}:6443")
        seed = make_seed(profile, "site-1-agent", key, tmp_path_factory.mktemp("agent") / "seed.iso", settings=settings)
    config = MachineConfig(
        board=board, image=image(profile) / "disk.img", memory=2**30, media=(seed,),
        network=MachineNetwork(restrict=True), extra=cluster_cable.arguments(AGENT),
    )  # fmt: skip
    log = LOGS_FOLDER / f"cluster-agent-{distribution.name}-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        node = Node(machine, machine.guest(USER, key))
        node.wait_complete()
        node.guest.wait_ready(CONNECT)
        yield node


def test_pods_of_two_nodes_reach_each_other_over_vxlan_and_by_service_name(
    cluster_node: ServerNode, agent: Node, board: Board, tmp_path: Path
) -> None:
    import_demo(agent, board, tmp_path)
    cluster_node.guest.put(POD.encode(), "/tmp/shelf.yaml")
    cluster_node.kubectl("apply -f /tmp/shelf.yaml")
    cluster_node.kubectl("wait --for=condition=Ready pod/shelf pod/counter --timeout=300s", timeout=330)
    pods = {pod["metadata"]["name"]: pod for pod in json.loads(cluster_node.kubectl("get pods -o json"))["items"]}
    for name, node in (("shelf", "site-1-agent"), ("counter", "site-1")):
        pod_range = cluster_node.kubectl(f"get node {node} -o jsonpath={{.spec.podCIDR}}").strip()
        assert pods[name]["status"]["podIP"].rpartition(".")[0] == pod_range.rpartition(".")[0]
    assert "vxlan" in agent.run("ip -details link show flannel.1")
    address = pods["shelf"]["status"]["podIP"]
    assert "shelf" in in_pod(cluster_node, "app=counter", f"python3 -c '{FETCH}' http://{address}:8080/")
    assert "shelf" in in_pod(cluster_node, "app=counter", f"python3 -c '{FETCH}' http://shelf/")
    # The API server reaches the agent's kubelet by its serving certificate.
    cluster_node.kubectl("logs shelf")


def test_the_agent_starts_its_pods_after_a_power_cut_while_the_server_is_off(
    cluster_node: ServerNode, agent: Node, distribution: DistributionUnderTest
) -> None:
    if not distribution.starts_pods_alone:
        pytest.skip(f"agents of {distribution.name} start no pods without their server")
    boot_agent_alone(cluster_node, agent, "shelf")
