"""`edge-agent kubernetes stop`: stops the containers of this node in order, before the rest of a shutdown.

systemd would stop all containers at once at the beginning of a shutdown, because the slices that the kubelet creates
conflict with it. With drop-ins (`kubepods-.slice.d` and others), the slices wait for edge-pods.service, which runs this
command. The kubelet's own graceful shutdown is not used: it marks pods as failed, so pods without a controller are lost
and the others are created and scheduled again. Here the pods keep their state and data, and the kubelet restarts their
containers after the boot.

Pods that use others are stopped first: Deployments, Jobs and pods without a controller, then StatefulSets, then
DaemonSets and critical pods, then static pods. `preStop` hooks are not run, as with every other reboot.
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
LAST_RANK = 9  # containers unknown to the API: pod sandboxes, which own the networks of the pods
DEFAULT_GRACE = 30.0  # seconds; the default of Kubernetes
TOTAL_SECONDS = 120.0  # seconds for all containers


@dataclass(frozen=True)
class StopOrder:
    """The rank of a container (lower ranks stop first) and its grace period in seconds."""

    rank: int = LAST_RANK
    grace: float = DEFAULT_GRACE


def stop_orders(pods: Iterable[dict[str, Any]]) -> dict[str, StopOrder]:
    """Container ID -> its stop order, from the pods of this node."""
    orders = {}
    for pod in pods:
        rank = RANKS.get(drain.owner_kind(pod), 0)
        if pod["spec"].get("priorityClassName") in CRITICAL:
            rank = max(rank, 2)
        grace = pod["spec"].get("terminationGracePeriodSeconds")
        seconds = DEFAULT_GRACE if grace is None else float(grace)  # 0 means immediately
        for kind in ("containerStatuses", "initContainerStatuses"):
            for status in pod.get("status", {}).get(kind) or []:
                orders[str(status.get("containerID")).partition("://")[2]] = StopOrder(rank, seconds)
    return orders


def read_stop_orders(system: System) -> dict[str, StopOrder]:
    """The stop orders of all containers, from the API server. Empty if it does not answer."""
    try:
        settings = load_settings(system.root)
        return stop_orders(drain.list_pods(api.connect_api(system.root, settings), settings.node_name))
    except (OSError, Problem, KeyError) as error:
        reason = api.explain_failure(error) if isinstance(error, (OSError, Problem)) else error
        print(f"all containers are stopped at once, because their order is unknown: {reason}")
        return {}


def first_processes(scope: Path) -> list[int]:
    """The main processes of a container: those whose parent is not in the container."""
    members = {int(pid) for pid in (scope / "cgroup.procs").read_text().split()}
    return sorted(pid for pid in members if pid and parent_process(pid) not in members)


def parent_process(pid: int) -> int:
    """The parent of a process (proc_pid_stat(5)); 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def running_containers(
    system: System, orders: dict[str, StopOrder]
) -> dict[int, dict[str, tuple[StopOrder, list[int]]]]:
    """Rank -> container ID -> (stop order, main processes), for all running containers."""
    containers: dict[int, dict[str, tuple[StopOrder, list[int]]]] = {}
    for scope in system.path(SCOPES).rglob(SCOPE):
        name = scope.name.removeprefix("cri-containerd-").removesuffix(".scope")
        order = orders.get(name, StopOrder() if orders else StopOrder(0))
        with suppress(OSError):  # the container has just ended
            if pids := first_processes(scope):
                containers.setdefault(order.rank, {})[name] = (order, pids)
    return containers


def stop_containers(group: dict[str, tuple[StopOrder, list[int]]], limit: float) -> list[str]:
    """Stop the containers of one rank. After their grace period or `limit` seconds they are killed.

    Returns the names of killed containers.
    """
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
        killed = set()
        while waiting:
            poll = select.poll()
            for descriptor in waiting:
                poll.register(descriptor, select.POLLIN)
            pause = max(0.0, min(kill_time for _, _, kill_time in waiting.values()) - time.monotonic())
            for descriptor, _ in poll.poll(pause * 1000):
                del waiting[descriptor]
            for descriptor, (name, pid, kill_time) in list(waiting.items()):
                if time.monotonic() >= kill_time:
                    killed.add(name)
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    # A process that survives SIGKILL hangs in the kernel, so it is only waited for 5 seconds.
                    waiting[descriptor] = (name, pid, kill_time + 5)
                    if time.monotonic() >= kill_time + 5:
                        del waiting[descriptor]
    return sorted(killed)


def kubelet_processes() -> list[int]:
    """The main processes of the kubelet or K3s, which would restart containers."""
    command = ["systemctl", "show", "--property=MainPID", "--value", *UNITS]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return [int(pid) for pid in result.stdout.split() if pid != "0"]


def stop_all(root: Path, total: float = TOTAL_SECONDS) -> None:
    """Stop the kubelet, then all containers, in about `total` seconds at most."""
    # systemd does not restart the kubelet, because its stop job is queued already.
    system = System(root)
    orders = read_stop_orders(system)
    stop_containers({"kubelet": (StopOrder(grace=10), kubelet_processes())}, total)
    deadline = time.monotonic() + total
    for rank, group in sorted(running_containers(system, orders).items()):
        killed = stop_containers(group, max(1.0, deadline - time.monotonic()))
        print(f"rank {rank}: {len(group)} stopped" + (f", {len(killed)} of them killed" if killed else ""), flush=True)
