"""The programs of a server node on this host: kine, API server, controller manager and scheduler, with the arguments of
their units. They listen on loopback only. There is no machine and no kubelet; the test does a kubelet's work itself.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from osbuild.agent.cluster import cluster_data, version_record
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import api, join, pki, prepare
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE, load_settings
from osbuild.agent.system import System
from osbuild.config import upstream_versions
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.image_description import DESCRIPTION_FILE, ImageDescription, ImageKubernetes
from osbuild.shared.node_settings import API_PORT

START = 240.0  # seconds until an API server must be ready; on two idle cores it takes 20
NODE = "node-1"
PODS = "/api/v1/namespaces/default/pods"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
Result = TypeVar("Result")
UID = "00000000-0000-4000-8000-000000000000"


def wait_for(condition: Callable[[], Result | None], description: str, seconds: float = 120) -> Result:
    """Call `condition` until its result is true, and return the result. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except (OSError, Problem) as error:
            problem: object = error
        else:
            problem = "not so"
        assert time.monotonic() < end, f"{description}: {problem}"
        time.sleep(0.5)


class ControlPlane:
    """One server node's data below `root`, which several releases use in turn."""

    def __init__(self, root: Path, *, helm: bool = False) -> None:
        self.root = root
        self.system = System(root)
        self.cache = Cache()
        write_settings(root, {**SERVER, "helm": helm})
        (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
        for link, target in (
            (pki.PROGRAM, upstream_programs.build_small_program("pki", Architecture.native(), self.cache)),
            ("etc/kubernetes/admin.conf", root / "var/lib/kubernetes/admin.conf"),
        ):
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(target)
        link_node_program(root, self.cache)

    def binary(self, version: str) -> Path:
        """Return the programs of a release, compiled if they are not in the cache."""
        return upstream_programs.build_binary(
            upstream_versions.find_release(version), Architecture.native(), self.cache
        )

    @contextmanager
    def run_version(self, version: str) -> Iterator[tuple[ApiServer, dict[str, Any] | None]]:
        """Do what a boot does, then run the API server of a release. Yields it and the boot's changes to the data."""
        write_image_metadata(self.root, "server", version)
        outcome = cluster_data.reconcile_data(self.system)
        cluster_data.mark_recorded(self.system)
        prepare.prepare_node(self.root)
        (self.root / "run/kine").mkdir(parents=True, exist_ok=True)
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("127.0.0.1", API_PORT))  # fails if another program uses the port
        with self.run_programs(("kine", "kube-apiserver"), version) as server:

            def ready() -> ApiServer | None:
                assert server.poll() is None, f"ended: see {self.log(version)}"
                server_api = api.connect_api(self.root, load_settings(self.root))
                with urllib.request.urlopen(
                    f"{server_api.server}/readyz", context=server_api.context, timeout=5
                ) as answer:
                    return server_api if answer.read() == b"ok" else None

            server_api = wait_for(ready, "the API server", START)
            assert server_api.call("GET", "/version")["gitVersion"] == version
            yield server_api, outcome

    def run_program(self, name: str, version: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run one program of a server node until the block ends."""
        return self.run_programs((name,), version)

    @contextmanager
    def run_programs(self, names: Sequence[str], version: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run programs of a server node in one process, with the arguments of its unit, until the block ends."""
        plan = json.loads((self.root / "run/edge-osbuild/kubernetes/server.json").read_text())
        chosen = self.root / f"run/{'-'.join(names)}.json"
        chosen.write_text(json.dumps({**plan, "programs": {name: plan["programs"][name] for name in names}}))
        with ExitStack() as stack:
            log = stack.enter_context(self.log(version).open("ab"))
            command = [str(self.binary(version)), "run", str(chosen)]
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            stack.callback(end_process, process)
            yield process
            assert process.poll() is None, f"{names} {version} has ended: see {self.log(version)}"

    def apply_manifests(self, version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Apply manifests as the unit of a server node does, from the root of this node."""
        environment = {**os.environ, "KUBECONFIG": str(self.root / "var/lib/kubernetes/admin.conf")}
        command: list[str | Path] = [self.binary(version), "apply", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def log(self, version: str) -> Path:
        return self.root / f"{version}.log"

    def recorded_version(self) -> str:
        record = version_record.read_record(self.system)
        assert record
        return str(record.kubernetes)


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


RELEASES = upstream_versions.list_releases()
SERVER = {"role": "server", "config": {"node-name": NODE, "kube-apiserver-arg": ["bind-address=127.0.0.1"]}}


def link_node_program(root: Path, cache: Cache) -> Path:
    """Link `edge-node` into `root`."""
    path = root / join.PROGRAM
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(upstream_programs.build_small_program("node", Architecture.native(), cache))
    return path


def write_settings(root: Path, image: dict[str, Any], seed: dict[str, Any] | None = None) -> None:
    """Write the settings of Kubernetes of an image and of a seed."""
    for name, content in ((IMAGE_FILE, image), (SEED_FILE, seed or {})):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))


def write_image_metadata(root: Path, role: str, version: str) -> None:
    """Write image.json of an image with that role and release."""
    kubernetes = ImageKubernetes(role=role, distribution="upstream", version=version)
    path = root / DESCRIPTION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ImageDescription(kubernetes=kubernetes).to_text())


def make_agent_root(root: Path, server: ControlPlane, version: str) -> System:
    """Make the root of an agent node that has only the kubelet's permissions."""
    seed = {"server": f"https://127.0.0.1:{API_PORT}", "token": "any"}
    write_settings(root, {"role": "agent", "config": {"node-name": NODE}}, seed)
    write_image_metadata(root, "agent", version)
    kubeconfig = root / "var/lib/kubernetes/kubelet.conf"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch(0o600)
    kubeconfig.write_text((server.root / "var/lib/kubernetes/kubelet.conf").read_text())
    return System(root)


def make_node(server: ApiServer, name: str) -> None:
    """Create a node that is Ready and schedulable."""
    server.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "2", "memory": "2Gi", "pods": "50"},
        "capacity": {"cpu": "2", "memory": "2Gi", "pods": "50"},
    }
    server.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, kind=api.MERGE_PATCH)
    server.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, kind=api.MERGE_PATCH)


def make_pod(server: ApiServer, name: str, owner: str = "", *, node: str | None = NODE, **labels: str) -> None:
    """Create a pod that runs on `node`; without `node` the scheduler has to choose one."""
    owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": UID, "controller": True}] if owner else []
    spec = {"containers": [{"name": "c", "image": "x"}], "automountServiceAccountToken": False}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
        "spec": spec | ({"nodeName": node} if node else {}),
    }
    server.call("POST", PODS, body)
    if node:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        server.call("PATCH", f"{PODS}/{name}/status", {"status": status}, kind=api.MERGE_PATCH)


def play_kubelet(server: ApiServer) -> None:
    """Delete the pods that are terminating, as a kubelet does, once."""
    for pod in server.call("GET", PODS)["items"]:
        if pod["metadata"].get("deletionTimestamp"):
            server.call("DELETE", f"{PODS}/{pod['metadata']['name']}?gracePeriodSeconds=0")


def make_configmap(server: ApiServer, name: str, value: str = "x") -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}
    server.call("POST", CONFIGMAPS, body)


def list_configmaps(server: ApiServer) -> list[str]:
    """Return the names of the test's ConfigMaps, without the one that the cluster creates."""
    names = (item["metadata"]["name"] for item in server.call("GET", CONFIGMAPS)["items"])
    return sorted(name for name in names if name != "kube-root-ca.crt")


def current_revision(server: ApiServer) -> int:
    return int(server.call("GET", CONFIGMAPS)["metadata"]["resourceVersion"])


def watch_configmaps(server: ApiServer, since: int, seconds: int = 3) -> list[dict[str, Any]]:
    """Watch ConfigMaps for `seconds`, and return the events (API concepts, "Efficient detection of changes")."""
    url = f"{server.server}{CONFIGMAPS}?watch=1&resourceVersion={since}&timeoutSeconds={seconds}"
    with urllib.request.urlopen(url, context=server.context, timeout=seconds + 60) as answer:
        return [json.loads(line) for line in answer]


def node_spec(server: ApiServer, name: str = NODE) -> dict[str, Any]:
    """Return a node's `spec`."""
    spec: dict[str, Any] = server.call("GET", f"/api/v1/nodes/{name}")["spec"]
    return spec
