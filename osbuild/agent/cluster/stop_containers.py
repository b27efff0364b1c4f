"""`edge-agent kubernetes stop`: at every shutdown, end the containers of this node in order, before all else.

systemd would end them all at once, at the very start: the slices that the kubelet makes for pods are in the way of a
shutdown. By drop-ins (`kubepods-.slice.d` and others) they wait for `edge-pods.service`, which runs this. The kubelet's
own graceful shutdown is not used: it marks pods as failed, which loses those without a controller and has all others
made and scheduled anew. Here a pod stays what it is, in place and with its data, and the kubelet starts its containers
again after the boot.

First go those that use others: Deployments, Jobs and pods without a controller, then StatefulSets, then DaemonSets and
what is critical to the cluster, then static pods. Hooks (`preStop`) are not run, as with every other reboot.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.cluster import drain
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import api
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System

SCOPES = "/sys/fs/cgroup/kubepods.slice"
SCOPE = "cri-containerd-*.scope"
UNITS = ("kubelet.service", "k3s-agent.service", "k3s-server.service")
RANKS = {"StatefulSet": 1, "DaemonSet": 2, "static": 3, "Node": 3}
CRITICAL = ("system-cluster-critical", "system-node-critical")
LAST_RANK = 9  # what belongs to no container that the API knows: the sandboxes, which hold the pods' networks
DEFAULT_GRACE = 30.0  # seconds, Kubernetes' default
TOTAL_SECONDS = 120.0  # seconds for all


@dataclass(frozen=True)
class StopOrder:
    """When a container's turn is, and how many seconds it gets to end."""

    rank: int = LAST_RANK
    grace: float = DEFAULT_GRACE


def stop_orders(pods: Iterable[dict[str, Any]]) -> dict[str, StopOrder]:
    """The place of every container by its ID, from the pods of this node."""
    found = {}
    for pod in pods:
        rank = RANKS.get(drain.owner_kind(pod), 0)
        if pod["spec"].get("priorityClassName") in CRITICAL:
            rank = max(rank, 2)
        grace = pod["spec"].get("terminationGracePeriodSeconds")
        seconds = DEFAULT_GRACE if grace is None else float(grace)  # 0 is at once
        for kind in ("containerStatuses", "initContainerStatuses"):
            for status in pod.get("status", {}).get(kind) or []:
                found[str(status.get("containerID")).partition("://")[2]] = StopOrder(rank, seconds)
    return found


def read_stop_orders(system: System) -> dict[str, StopOrder]:
    """The same from the API server, empty where it does not answer: then all containers go at once."""
    try:
        settings = load_settings(system.root)
        return stop_orders(drain.list_pods(api.connect_api(system.root, settings), settings.node_name))
    except (OSError, Problem, KeyError) as error:
        print(f"in no order: {api.explain_failure(error) if isinstance(error, (OSError, Problem)) else error}")
        return {}


def first_processes(scope: Path) -> list[int]:
    """The processes of a container that its runtime started: those whose parent is outside."""
    members = {int(word) for word in (scope / "cgroup.procs").read_text().split()}
    return sorted(pid for pid in members if pid and parent_process(pid) not in members)


def parent_process(pid: int) -> int:
    """The parent of a process (proc_pid_stat(5)), 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def running_containers(
    system: System, known: dict[str, StopOrder]
) -> dict[int, dict[str, tuple[StopOrder, list[int]]]]:
    """Processes of the running containers by their ID, by rank."""
    found: dict[int, dict[str, tuple[StopOrder, list[int]]]] = {}
    for scope in system.path(SCOPES).rglob(SCOPE):
        name = scope.name.removeprefix("cri-containerd-").removesuffix(".scope")
        order = known.get(name, StopOrder() if known else StopOrder(0))
        with suppress(OSError):  # it has ended just now
            if pids := first_processes(scope):
                found.setdefault(order.rank, {})[name] = (order, pids)
    return found


def end_containers(group: dict[str, tuple[StopOrder, list[int]]], limit: float) -> list[str]:
    """Have the containers of one rank end, by force after their grace or `limit` seconds; which needed that."""
    started = time.monotonic()
    with ExitStack() as stack:
        waiting: dict[int, tuple[str, int, float]] = {}
        for name, (order, pids) in group.items():
            for pid in pids:
                with suppress(ProcessLookupError):
                    descriptor = os.pidfd_open(pid)
                    stack.callback(os.close, descriptor)
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    waiting[descriptor] = (name, pid, started + min(order.grace, limit))
        forced = set()
        while waiting:
            poll = select.poll()
            for descriptor in waiting:
                poll.register(descriptor, select.POLLIN)
            pause = max(0.0, min(until for _, _, until in waiting.values()) - time.monotonic())
            for descriptor, _ in poll.poll(pause * 1000):
                del waiting[descriptor]
            for descriptor, (name, pid, until) in list(waiting.items()):
                if time.monotonic() >= until:
                    forced.add(name)
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    # One that not even this ends hangs in the kernel: nobody can wait for it.
                    waiting[descriptor] = (name, pid, until + 5)
                    if time.monotonic() >= until + 5:
                        del waiting[descriptor]
    return sorted(forced)


def kubelet_processes() -> list[int]:
    """The processes that would start containers again."""
    command = ["systemctl", "show", "--property=MainPID", "--value", *UNITS]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split() if word != "0"]


def stop_all(root: Path, total: float = TOTAL_SECONDS) -> None:
    """End all containers, in at most about `total` seconds.

    The kubelet goes first. systemd, which is about to stop it too, does not start it again.
    """
    system = System(root)
    known = read_stop_orders(system)
    end_containers({"kubelet": (StopOrder(grace=10), kubelet_processes())}, total)
    deadline = time.monotonic() + total
    for rank, group in sorted(running_containers(system, known).items()):
        forced = end_containers(group, max(1.0, deadline - time.monotonic()))
        print(f"rank {rank}: {len(group)} ended" + (f", {len(forced)} by force" if forced else ""), flush=True)
