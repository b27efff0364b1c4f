"""Containers end in order at a shutdown. Their processes are real; only the cgroup folders are the test's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.cluster import stop_containers
from osbuild.agent.cluster.stop_containers import StopOrder
from osbuild.agent.system import System

POLITE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# Says that it is ready, and at its end which one it was, in the order in which they end.
PROGRAM = """
import atexit, time
atexit.register(lambda: open({log!r}, "a").write({name!r} + " "))
{first}
print("ready", flush=True)
time.sleep(60)
"""


class Node:
    """Containers on a node: one process each."""

    def __init__(self, root: Path) -> None:
        self.system, self.log = System(root), root / "log"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.log.write_text("")

    def run(self, name: str, first: str = POLITE) -> None:
        program = PROGRAM.format(log=str(self.log), name=name, first=first)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        self.processes[name] = process
        assert process.stdout and process.stdout.readline() == "ready\n"
        scope = self.system.path(stop_containers.SCOPES) / f"kubepods-pod{name}.slice/cri-containerd-{name}.scope"
        scope.mkdir(parents=True)
        (scope / "cgroup.procs").write_text(f"{process.pid}\n")

    def ended(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for process in node.processes.values():
        process.kill()
        process.communicate()


def end_all(node: Node, orders: dict[str, StopOrder], limit: float = 30) -> list[str]:
    ranks = sorted(stop_containers.running_containers(node.system, orders).items())
    return [name for _, group in ranks for name in stop_containers.stop_containers(group, limit)]


def pod(name: str, kind: str = "", **spec: Any) -> dict[str, Any]:
    owners = [{"kind": kind, "controller": True}] if kind else []
    return {
        "metadata": {"ownerReferences": owners},
        "spec": spec,
        "status": {"containerStatuses": [{"containerID": f"containerd://{name}"}]},
    }


def test_containers_stop_in_the_order_of_their_owners_and_sandboxes_last(node: Node) -> None:
    orders = stop_containers.stop_orders([
        pod("static", "Node"), pod("log", "DaemonSet"), pod("db", "StatefulSet"), pod("web", "ReplicaSet"),
        pod("dns", "ReplicaSet", priorityClassName="system-cluster-critical"),
    ])  # fmt: skip
    for name in ("sandbox", "static", "log", "db", "web", "dns"):
        node.run(name)
    assert end_all(node, orders) == []
    ended = node.ended()
    assert ended[:2] == ["web", "db"] and set(ended[2:4]) == {"log", "dns"} and ended[4:] == ["static", "sandbox"]


def test_a_container_that_does_not_stop_is_killed_after_its_grace_period(node: Node) -> None:
    orders = stop_containers.stop_orders([pod("stubborn", terminationGracePeriodSeconds=1), pod("polite")])
    node.run("stubborn", STUBBORN)
    node.run("polite")
    started = time.monotonic()
    assert end_all(node, orders) == ["stubborn"]
    assert 1 <= time.monotonic() - started < 10
    assert node.processes["stubborn"].wait() == -signal.SIGKILL
    assert node.ended() == ["polite"]


def test_a_grace_period_of_zero_is_respected() -> None:
    orders = stop_containers.stop_orders([pod("hasty", terminationGracePeriodSeconds=0), pod("other")])
    assert {name: order.grace for name, order in orders.items()} == {"hasty": 0, "other": stop_containers.DEFAULT_GRACE}


def test_the_total_time_is_limited_for_every_grace_period(node: Node) -> None:
    node.run("stubborn", STUBBORN)
    started = time.monotonic()
    assert end_all(
        node, stop_containers.stop_orders([pod("stubborn", terminationGracePeriodSeconds=3600)]), limit=1
    ) == ["stubborn"]
    assert time.monotonic() - started < 10


def test_without_an_answer_of_the_api_all_containers_stop_at_once(node: Node) -> None:
    for name in ("a", "b"):
        node.run(name)
    assert list(stop_containers.running_containers(node.system, {})) == [0]
    assert end_all(node, {}) == [] and sorted(node.ended()) == ["a", "b"]


def test_only_the_main_processes_are_signalled(node: Node) -> None:
    note = node.system.root / "child"
    child_of = "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    node.run("parent", f"{POLITE}; import subprocess; {child_of}; open({str(note)!r}, 'w').write(str(c.pid))")
    child = int(note.read_text())
    (scope,) = node.system.path(stop_containers.SCOPES).rglob(stop_containers.SCOPE)
    (scope / "cgroup.procs").write_text(f"{child}\n{node.processes['parent'].pid}\n")
    assert stop_containers.first_processes(scope) == [node.processes["parent"].pid]
    os.kill(child, signal.SIGKILL)


def test_a_container_that_has_already_ended_is_not_an_error(node: Node) -> None:
    node.run("gone")
    ranks = stop_containers.running_containers(node.system, {})
    node.processes["gone"].kill()
    node.processes["gone"].wait()
    assert stop_containers.stop_containers(ranks[0], 5) == []
    assert stop_containers.running_containers(node.system, {}) == {
        0: {"gone": (StopOrder(0), [node.processes["gone"].pid])}
    }
