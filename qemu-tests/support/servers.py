"""Server nodes of one cluster on this host: each has a network namespace with its own address, and runs the programs of
its unit. They share a bridge in one more namespace. There are no machines and no kubelets.
"""

import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import pki
from osbuild.config import upstream_versions
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.node_settings import API_PORT
from support.control_plane import START, end_process, link_node_program, wait_for, write_image_metadata, write_settings

REPOSITORY = Path(__file__).parents[2]
VERSION = upstream_versions.list_releases()[0].version
NUMBERS = itertools.count()


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Network:
    """Network namespaces that are connected with each other, and with nothing else."""

    def __init__(self) -> None:
        self.prefix = f"edge{os.getpid()}-{next(NUMBERS)}"
        self.namespaces: list[str] = []

    def add_namespace(self, name: str) -> str:
        namespace = f"{self.prefix}-{name}"
        run_ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        run_ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def add_host(self, number: int) -> str:
        """Add the namespace of a host with the address 192.0.2.`number`, and return its name."""
        namespace = self.add_namespace(str(number))
        lan = self.namespaces[0]
        run_ip("-n", namespace, "link", "add", "lan0", "type", "veth", "peer", "name", f"port{number}", "netns", lan)
        run_ip("-n", lan, "link", "set", f"port{number}", "master", "bridge", "up")
        run_ip("-n", namespace, "address", "add", f"192.0.2.{number}/24", "dev", "lan0")
        run_ip("-n", namespace, "link", "set", "lan0", "up")
        run_ip("-n", namespace, "route", "add", "default", "via", "192.0.2.254")
        return namespace


@contextmanager
def running_network() -> Iterator[Network]:
    """A network whose namespaces are removed in the end."""
    network = Network()
    try:
        lan = network.add_namespace("lan")
        run_ip("-n", lan, "link", "add", "bridge", "type", "bridge")
        run_ip("-n", lan, "address", "add", "192.0.2.254/24", "dev", "bridge")
        run_ip("-n", lan, "link", "set", "bridge", "up")
        yield network
    finally:
        for namespace in network.namespaces:
            run_ip("netns", "delete", namespace)


@dataclass
class ClusterNode:
    """A node of the cluster: its data below `root`, and its programs in a network namespace."""

    root: Path
    number: int
    namespace: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return f"192.0.2.{self.number}"

    @property
    def url(self) -> str:
        return f"https://{self.address}:{API_PORT}"

    @property
    def log(self) -> Path:
        return self.root / "programs.log"

    def make(self, role: str, config: dict[str, Any], seed: dict[str, Any]) -> None:
        """Make the root of the node."""
        cache = Cache()
        image = {"role": role, "node_ip": self.address, "config": {"node-name": self.name, **config}}
        write_settings(self.root, image, seed)
        write_image_metadata(self.root, role, VERSION)
        (self.root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
        (self.root / "run/kine").mkdir(parents=True, exist_ok=True)
        link_node_program(self.root, cache)
        (self.root / pki.PROGRAM).symlink_to(upstream_programs.build_small_program("pki", Architecture.native(), cache))
        (self.root / "usr/bin").mkdir(parents=True)
        (self.root / "usr/bin/edge-kubernetes").symlink_to(kubernetes_binary())
        (self.root / "etc/kubernetes").mkdir()
        (self.root / "etc/kubernetes/admin.conf").symlink_to(self.root / "var/lib/kubernetes/admin.conf")

    def run(self, *command: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace of the node."""
        result = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            capture_output=True, text=True, check=False, timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert result.returncode == 0 or not check, (command, result.stdout, result.stderr, self.tail())
        return result

    def agent(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `edge-agent kubernetes`."""
        command = [sys.executable, "-m", "osbuild.agent", "kubernetes", "--root", str(self.root), *arguments]
        return self.run(*command, check=check)

    def kubectl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        kubeconfig = self.root / "var/lib/kubernetes/admin.conf"
        return self.run(kubernetes_binary(), "kubectl", "--kubeconfig", kubeconfig, *arguments, check=check)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` prints as JSON."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def start(self, plan: str = "server", only: Sequence[str] = ()) -> None:
        """Start the programs of a unit, or some of them."""
        content = json.loads((self.root / f"run/edge-osbuild/kubernetes/{plan}.json").read_text())
        chosen = self.root / f"run/{plan}-chosen.json"
        programs = {name: value for name, value in content["programs"].items() if not only or name in only}
        chosen.touch(0o600)
        chosen.write_text(json.dumps({**content, "programs": programs}))
        self.background(kubernetes_binary(), "run", chosen)

    def background(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a program in the namespace of the node."""
        env = {**os.environ, "GOGC": "100", "EDGE_SETTLE": "90:50"}  # those of the unit
        # `ip netns exec` becomes the program itself.
        full = ["ip", "netns", "exec", self.namespace, *command]
        with self.log.open("ab") as log:
            process = subprocess.Popen(full, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        self.processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a program that `background` has started."""
        end_process(process)
        self.processes.remove(process)

    def is_running(self) -> bool:
        return bool(self.processes) and self.processes[-1].poll() is None

    def kill(self) -> None:
        """End the programs as a power cut would."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def stop(self) -> None:
        """End the programs as systemd would."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def await_ready(self) -> None:
        """Wait until the API server of the node is ready."""

        def ready() -> bool:
            assert self.is_running(), self.tail()
            return self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok"

        wait_for(ready, f"the API server of {self.name}: {self.tail()}", START)

    def members(self) -> list[dict[str, Any]]:
        """The members of etcd as this server sees them."""
        settings = self.root / "run/edge-osbuild/kubernetes/etcd.json"
        members: list[dict[str, Any]] = json.loads(self.run(kubernetes_binary(), "etcd", settings, "members").stdout)
        return members

    def add_node_object(self) -> None:
        """Create the Node as the kubelet does, and label it as `edge-kubernetes-tokens` does."""
        self.kubectl(
            "create", "-f", self.write("node", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}})
        )
        self.report_ready(self)
        self.agent("tokens")

    def report_ready(self, server: "ClusterNode") -> None:
        """Report the status of the node to a server, as its kubelet does."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}],
                  "addresses": [{"type": "InternalIP", "address": self.address}]}  # fmt: skip
        patch = json.dumps({"status": status})
        server.kubectl("patch", "node", self.name, "--subresource=status", "--type=merge", "-p", patch)

    def write(self, name: str, content: dict[str, Any]) -> str:
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)

    def memory(self) -> int:
        """The memory of the programs in KiB (VmRSS of proc_pid_status(5))."""
        text = Path(f"/proc/{self.processes[-1].pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def kubernetes_binary() -> Path:
    """Return the programs of the newest release, compiled if they are not in the cache."""
    release = upstream_versions.find_release(VERSION)
    return upstream_programs.build_binary(release, Architecture.native(), Cache())
