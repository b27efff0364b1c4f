"""An update of the OS of three servers with embedded etcd: one server at a time, while the others are enough.

The tests share the machines and depend on their order, because each boot under emulation takes minutes.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.cable import SERVERS, seed_settings
from support.distributions import DistributionUnderTest, write_unless_same
from support.hub import Hub
from support.nodes import BOOT, CONNECT, Node
from support.two_nodes import NodeFactory

from osbuild.config.board import Board
from osbuild.host.paths import PROJECT
from osbuild.host.run import run_command

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # half an hour: three emulated servers need all of two processors
PROFILE = """\
name: servers-{distribution}
version: {version}
extends: {base}
kubernetes:
  disable: [coredns, local-storage, metrics-server]
health:
  deadline: 3000
"""
PATIENT = 3 * BOOT  # seconds for a boot beside two other servers
UPDATE = "edge-agent update install /var/tmp/next.raucb"
LOG = "/var/lib/update.log"


@dataclass(frozen=True)
class ThreeServers:
    nodes: list[Node]
    next: Path
    """the bundle of the next version"""

    def start_update(self, node: Node) -> None:
        node.machine.console.skip()
        node.guest.put(self.next, "/var/tmp/next.raucb", timeout=BOOT)
        node.run(f"systemd-run --collect --unit=test-update sh -c '{UPDATE} > {LOG} 2>&1'")


@pytest.fixture(scope="module")
def profiles(
    board: Board, distribution: DistributionUnderTest, cluster_profile: Callable[[str, Board], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """The profiles of both versions, with nothing that a server does not need."""
    folder, base = tmp_path_factory.mktemp("profiles"), cluster_profile("edge-server", board)
    paths = {version: folder / version / f"servers-{distribution.name}.yaml" for version in ("1.0.0", "1.1.0")}
    for version, path in paths.items():
        text = PROFILE.format(distribution=distribution.name, version=version, base=base)
        write_unless_same(path, text.encode())
    return paths


@pytest.fixture(scope="module")
def servers(
    board: Board, image: Callable[[str | Path], Path], profiles: dict[str, Path], node_factory: NodeFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ThreeServers]:  # fmt: skip
    bundle = tmp_path_factory.mktemp("bundle") / "next.raucb"
    run_command([sys.executable, "-m", "osbuild", "bundle", image(profiles["1.1.0"]), "-o", bundle], cwd=PROJECT)
    factory = replace(node_factory, profile=lambda _name, _board: profiles["1.0.0"], patience=PATIENT)
    first = seed_settings(SERVERS[0], config=json.dumps({"cluster-init": True}))
    with Hub(SERVERS) as hub, ExitStack() as stack:
        nodes: list[Node] = []
        for address in SERVERS:
            further = seed_settings(address, server=f"https://{SERVERS[0]}:6443")
            settings = further if nodes else first
            nodes.append(stack.enter_context(factory.boot("server", address, settings, board=board, link=hub)))
        yield ThreeServers(nodes, bundle)


def test_three_servers_are_ready(servers: ThreeServers) -> None:
    names = " ".join(f"node/site-{number}" for number in (1, 2, 3))
    servers.nodes[0].kubectl(f"wait --for=condition=Ready {names} --timeout=300s", timeout=330)
    servers.nodes[0].kubectl("create configmap kept --from-literal=when=before")


def test_an_update_waits_for_a_server_that_is_off(servers: ThreeServers) -> None:
    first, _, third = servers.nodes
    third.machine.power_cut()
    servers.start_update(first)
    first.wait_until(f"grep -q 'too few servers would be left.*site-3' {LOG}", timeout=PATIENT)
    assert first.status()["version"] == "1.0.0"
    third.machine.boot_again()
    third.wait_complete(PATIENT)
    third.guest.wait_ready(CONNECT)


def test_two_servers_that_begin_at_once_are_updated_one_after_the_other(servers: ThreeServers) -> None:
    first, second, third = servers.nodes
    servers.start_update(second)
    for node in (first, second):
        match = node.machine.console.wait_for(r"boot complete: \S+ (\S+) slot (\w) ", 2 * PATIENT)
        assert (match[1], match[2]) == ("1.1.0", "b")
        node.guest.disconnect()
        node.guest.wait_ready(CONNECT)
        node.wait_good(300)
    turns = sorted(turn_of(node) for node in (first, second))
    assert turns[0][1] <= turns[1][0], f"both were away at the same time: {turns}"
    for node in servers.nodes:
        assert node.kubectl("get configmap kept -o jsonpath={.data.when}").strip() == "before"
    third.wait_until("test $(kubectl get nodes --no-headers | grep -cw Ready) = 3", timeout=300)
    third.wait_until("! kubectl get nodes | grep -q SchedulingDisabled", timeout=300)


def turn_of(node: Node) -> tuple[str, str]:
    """Return when a server switched to the next version, and when it was committed (times in ISO 8601)."""
    times = {row["event"]: row["time"] for row in json.loads(node.run("edge-agent update history --json"))}
    return times["switched"], times["committed"]
