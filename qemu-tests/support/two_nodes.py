"""Nodes of a cluster on one cable: a server, and an agent node that joins it."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from osbuild.config.board import Board
from osbuild.qemu.acceleration import choose_accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from support.cable import TOKEN
from support.distributions import DistributionUnderTest
from support.nodes import BOOT, CONNECT, LOGS_FOLDER, USER, Node, make_seed
from support.pods import fetch_in_pod

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
---
apiVersion: v1
kind: Service
metadata: {name: counter}
spec: {selector: {app: counter}, ports: [{port: 80, targetPort: 8080}]}
"""
"""a pod on each node, and its service"""
MEMORY = {"server": 2 * 2**30, "agent": 2**30}
"""bytes of a machine of each role"""


@dataclass
class TwoNodes:
    server: Node
    agent: Node

    def pod_address(self, name: str) -> str:
        return self.server.kubectl(f"get pod {name} -o jsonpath={{.status.podIP}}").strip()

    def create_pods(self, manifests: str, *names: str) -> None:
        """Create pods and other objects, and wait until the pods of these names are ready."""
        self.server.guest.put(manifests.encode(), "/tmp/pods.yaml")
        self.server.kubectl("apply -f /tmp/pods.yaml")
        for name in names:
            self.server.kubectl(f"wait --for=condition=Ready pod/{name} --timeout=300s", timeout=330)

    def check_pods(self) -> None:
        """Let the pods of `PODS` ask each other, by address and by name. The DNS server is a pod of the server."""
        for url in (f"http://{self.pod_address('shelf')}:8080/", "http://shelf/"):
            assert '"shelf"' in fetch_in_pod(self.server, "app=counter", url)
        for url in (f"http://{self.pod_address('counter')}:8080/", "http://counter/"):
            assert '"counter"' in fetch_in_pod(self.agent, "app=shelf", url, api=self.server)


class Wiring(Protocol):
    """What connects the machines: a `Cable`, a `Hub`, or `TranslatedNetworks`."""

    def arguments(self, address: str, /) -> tuple[str, ...]:
        """Return QEMU's arguments for the card of the machine that will have `address`."""


@dataclass(frozen=True)
class NodeFactory:
    """Boots nodes of the shipped profiles. `folder` is for their seeds, and its name is part of those of the logs."""

    distribution: DistributionUnderTest
    profile: Callable[[str, Board], Path]
    image: Callable[[str | Path, Board], Path]
    key: KeyPair
    folder: Path
    patience: float = BOOT
    """seconds that a boot may take"""

    @contextmanager
    def boot(self, role: str, address: str, settings: Sequence[str], *, board: Board, link: Wiring) -> Iterator[Node]:
        """Boot a node for the first time, and wait until it is healthy.

        `role` is server or agent, `settings` are like those of `cable.seed_settings`.
        """
        profile, name = self.profile(f"edge-{role}", board), node_name(role, address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TOKEN, "a secret that both know")
            seed = make_seed(profile, name, self.key, self.folder / f"{name}.iso", settings=settings)
        config = MachineConfig(
            board=board, image=self.image(profile, board) / "disk.img", memory=MEMORY[role], media=(seed,),
            network=MachineNetwork(restrict=True), extra=link.arguments(address),
        )  # fmt: skip
        log = LOGS_FOLDER / f"{self.folder.name}-{name}-{self.distribution.name}-{board.name}.log"
        qemu = find_emulator(board.architecture)
        accelerator = choose_accelerator(board, wrap=qemu.wrap, root=qemu.root)
        with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
            node = Node(machine, machine.guest(USER, self.key))
            node.wait_complete(self.patience)
            node.guest.wait_ready(CONNECT)
            yield node


def node_name(role: str, address: str) -> str:
    """Return the name of the node at an address: site-1, site-2 and so on, or that of the agent."""
    return "site-1-agent" if role == "agent" else f"site-{address.rpartition('.')[2]}"


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
