"""A server node and an agent node: the memory that the agent needs, and the throughput between their pods."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support.cable import AGENT, SERVER, Cable, seed_settings
from support.demo import import_demo
from support.nodes import Node
from support.pods import process_of
from support.two_nodes import apply_seed

from bench import memory, throughput
from bench.boot import MEMORY
from bench.figure import Figure, Measured
from bench.guest import Booted, power_on
from bench.site import BenchSite
from bench.throughput import Stream, StreamEnd
from osbuild.config.board import Board, load_board
from osbuild.host import log
from osbuild.inputs.build_manifest import DISK
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.shared.errors import Error

AGENT_MEMORY = 512 * 2**20
AGENT_MEMORY_GOAL = 220
PROFILES = {SERVER: "edge-server", AGENT: "edge-agent"}
MEMORIES = {SERVER: MEMORY, AGENT: AGENT_MEMORY}
VXLAN, WIREGUARD = "vxlan", "wireguard-native"
INTERFACES = {VXLAN: "flannel.1", WIREGUARD: "flannel-wg"}
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never}}]
---
"""
MEANING = (
    f"edge-server with {MEMORY >> 30} GiB and an edge-agent with {AGENT_MEMORY >> 20} MiB of memory, on one cable, "
    "under TCG with 2 processors each. The memory of the agent is measured before it has pods. "
)


@dataclass
class MeasuredPair:
    """A server and an agent node at the ends of the cable, with their seeds."""

    bench: BenchSite
    cable: Cable
    token: Path

    @property
    def board(self) -> Board:
        return load_board(self.bench.manifest(self.bench.image(PROFILES[SERVER])).architecture)

    def seed(self, address: str) -> Path:
        return self.bench.folder / f"{PROFILES[address]}-seed.iso"

    def write_seeds(self, backend: str) -> None:
        """Write the seeds of both nodes with a backend of flannel."""
        config = json.dumps({"flannel-backend": backend})
        further = {SERVER: {}, AGENT: {"server": f"https://{SERVER}:6443"}}
        for address, keys in further.items():
            settings = seed_settings(address, **{"token": f"file:{self.token}", "config": config, **keys})
            options = [option for setting in settings for option in ("--set", setting)]
            profile = PROFILES[address]
            self.bench.command("seed", self.bench.image(profile), "--node", profile, *options, "-o", self.seed(address))

    @contextmanager
    def powered(self, address: str) -> Iterator[Booted]:
        """Boot a node for the first time, and wait until it is healthy."""
        profile = PROFILES[address]
        config = MachineConfig(
            board=self.board, image=self.bench.folder_of(self.bench.image(profile)) / DISK, memory=MEMORIES[address],
            media=(self.seed(address),), network=MachineNetwork(restrict=True), extra=self.cable.arguments(address),
        )  # fmt: skip
        with power_on(self.bench, config, f"nodes-{profile}") as machine:
            machine.wait_complete()
            yield machine


def measure(bench: BenchSite) -> Measured:
    """Boot both nodes, measure the agent's memory when idle, and the throughput between pods with each backend."""
    token = bench.folder / "nodes-token"
    token.write_text("a secret that both know")
    pair = MeasuredPair(bench, Cable.lay(), token)
    pair.write_seeds(VXLAN)
    try:
        with pair.powered(SERVER) as server, pair.powered(AGENT) as agent:
            figures, metadata = measure_agent(agent)
            create_pods(pair, Node(server.machine, server.guest), Node(agent.machine, agent.guest))
            vxlan, rates = measure_backend(server, agent, VXLAN)
            change_backend(pair, {AGENT: agent, SERVER: server}, WIREGUARD)
            wireguard, other_rates = measure_backend(server, agent, WIREGUARD)
    except AssertionError as error:
        hint = f"the logs of the consoles are {bench.results}/bench-nodes-*.log"
        raise Error(f"the nodes do not do what they should: {error}", hint=hint) from error
    meaning = " ".join((MEANING + memory.MEANING, throughput.MEANING))
    return Measured([*figures, *vxlan, *wireguard], meaning, {**metadata, **rates, **other_rates})


def measure_agent(agent: Booted) -> tuple[list[Figure], dict[str, object]]:
    """Measure the agent's memory when idle."""
    (used, *others), metadata = memory.measure_idle(agent, PROFILES[AGENT], AGENT_MEMORY_GOAL)
    title = f"{PROFILES[AGENT]} in {AGENT_MEMORY >> 20} MiB: memory in use, idle"
    return [replace(used, title=title), *others], metadata


def create_pods(pair: MeasuredPair, server: Node, agent: Node) -> None:
    """Create a pod on each node."""
    with log.step("a pod on each node"):
        import_demo(agent, pair.board, pair.bench.folder)
        pods = "".join(POD.format(name=name, node=name) for name in PROFILES.values())
        server.guest.put(pods.encode(), "/tmp/bench-nodes.yaml")
        server.kubectl("create -f /tmp/bench-nodes.yaml")


def change_backend(pair: MeasuredPair, machines: Mapping[str, Booted], backend: str) -> None:
    """Give both nodes seeds with another backend of flannel, and boot them again."""
    pair.write_seeds(backend)
    with log.step(f"boots with {backend}"):
        for address, machine in machines.items():
            apply_seed(Node(machine.machine, machine.guest), pair.seed(address))
        for machine in machines.values():
            machine.again()
        for machine in machines.values():
            machine.wait_complete()


def measure_backend(server: Booted, agent: Booted, backend: str) -> tuple[list[Figure], dict[str, object]]:
    """Measure the throughput from agent to server, between pods and between the nodes."""
    nodes = {SERVER: Node(server.machine, server.guest), AGENT: Node(agent.machine, agent.guest)}
    api = nodes[SERVER]
    throughput.install_programs(list(nodes.values()))
    links, pods = {}, {}
    with log.step(f"throughput over {backend}"):
        for address, node in nodes.items():
            node.run(f"ip link show {INTERFACES[backend]}")  # fails if flannel has another backend
            name = PROFILES[address]
            process = process_of(node, f"app={name}", api=api, timeout=300)
            pod_address = api.kubectl(f"get pod {name} -o jsonpath={{.status.podIP}}").strip()
            links[address], pods[address] = StreamEnd(node, address), StreamEnd(node, pod_address, process)
        return throughput.compare_throughput(
            Stream(pods[AGENT], pods[SERVER]), Stream(links[AGENT], links[SERVER]), backend
        )
