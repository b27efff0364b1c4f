"""Nodes of a cluster on one cable: a server, and an agent node that joins it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from osbuild.config.board import Board
from osbuild.qemu.acceleration import choose_accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from support.cable import TOKEN, Cable
from support.nodes import BOOT, CONNECT, LOGS_FOLDER, USER, Node, make_seed

ASK = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/', timeout=5).read().decode())"
TASKS = "ctr -n k8s.io tasks list | awk 'NR > 1 { print $2 }'"
PODS = """
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
"""a pod with a service on the agent node, and a pod on the server"""


@dataclass
class TwoNodes:
    server: Node
    agent: Node


@dataclass(frozen=True, kw_only=True)
class CableNode:
    """A machine at the end of the cable that has `address`. `folder` is the build folder of its image.

    `log` is the name of its console's log, `memory` in bytes.
    """

    board: Board
    folder: Path
    seed: Path
    address: str
    log: str
    memory: int = 2 * 2**30


def make_cluster_seed(profile: str | Path, node: str, key: KeyPair, output: Path, settings: Sequence[str]) -> Path:
    """Write the seed of a node of the cluster, see `make_seed`. `settings` are those of `cable.seed_settings`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, "a secret that both know")
        return make_seed(profile, node, key, output, settings=settings)


@contextmanager
def boot_on_cable(node: CableNode, cable: Cable, key: KeyPair) -> Iterator[Node]:
    """Boot a node for the first time, and wait until it is healthy."""
    config = MachineConfig(
        board=node.board, image=node.folder / "disk.img", memory=node.memory, media=(node.seed,),
        network=MachineNetwork(restrict=True), extra=cable.arguments(node.address),
    )  # fmt: skip
    qemu = find_emulator(node.board.architecture)
    accelerator = choose_accelerator(node.board, wrap=qemu.wrap, root=qemu.root)
    with Machine(config, log=LOGS_FOLDER / node.log, emulator=qemu, accelerator=accelerator) as machine:
        booted = Node(machine, machine.guest(USER, key))
        booted.wait_complete()
        booted.guest.wait_ready(CONNECT)
        yield booted


def apply_seed(node: Node, seed: Path) -> None:
    """Give a running node another seed, from its next boot on."""
    node.guest.put(seed, "/tmp/seed.iso")
    node.run("edge-agent seed apply /tmp/seed.iso")


def boot_agent_alone(server: Node, agent: Node, pod: str) -> str:
    """Cut the power of both nodes while `pod` runs on the agent, boot the agent only, and wait until the pod answers.

    Returns the UID that the pod had before.
    """
    identifier: str = json.loads(server.kubectl(f"get pod {pod} -o json"))["metadata"]["uid"]
    agent.wait_until(f"grep -rlq {identifier} /var/lib/kubernetes/node-objects", timeout=60)
    agent.run("sync")
    server.machine.power_cut()
    agent.machine.power_cut()
    agent.machine.boot_again()
    agent.guest.wait_ready(BOOT)
    pods = f'for pid in $({TASKS}); do nsenter --target $pid --net python3 -c "{ASK}" | grep -q {pod} && exit 0; done'
    agent.wait_until(f"{pods}; exit 1", timeout=300)
    return identifier
