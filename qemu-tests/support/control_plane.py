"""The programs of a server node on this host: kine, API server, controller manager and scheduler, as their units start
them. Loopback only, no machine, no kubelet: what a kubelet would do to pods and nodes, the test does.
"""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from osbuild.shared.node_settings import API_PORT

START = 240.0  # seconds that an API server gets; 20 on two cores with nothing else to do
NODE = "node-1"
PODS = "/api/v1/namespaces/default/pods"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
Found = TypeVar("Found")
UNIQUE = "00000000-0000-4000-8000-000000000000"


def until(wanted: Callable[[], Found | None], what: str, seconds: float = 120) -> Found:
    """What `wanted` gives as soon as it is something; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := wanted():
                return found
        except (OSError, Problem) as error:
            last: object = error
        else:
            last = "not so"
        assert time.monotonic() < end, f"{what}: {last}"
        time.sleep(0.5)


class ControlPlane:
    """One server node's data below `root`, of which several releases have turns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system = System(root)
        self.cache = Cache()
        settings(root, SERVER)
        (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
        for link, target in (
            (pki.PROGRAM, upstream_programs.build_small_program("pki", Architecture.native(), self.cache)),
            ("etc/kubernetes/admin.conf", root / "var/lib/kubernetes/admin.conf"),
        ):
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(target)
        node_program(root, self.cache)

    def binary(self, version: str) -> Path:
        """The programs of a release, compiled if they are not in the cache."""
        return upstream_programs.build_binary(
            upstream_versions.find_release(version), Architecture.native(), self.cache
        )

    @contextmanager
    def booted(self, version: str) -> Iterator[tuple[ApiServer, dict[str, Any] | None]]:
        """The API server of a release, after what a boot does first; and what that did to the data."""
        image(self.root, "server", version)
        done = cluster_data.reconcile_data(self.system)
        cluster_data.mark_recorded(self.system)
        prepare.prepare_node(self.root)
        (self.root / "run/kine").mkdir(parents=True, exist_ok=True)
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("127.0.0.1", API_PORT))  # fails where something else is there: better than to talk to it
        with self.program("kine", version) as kine:
            until((self.root / "run/kine/kine.sock").is_socket, "kine's socket")
            with self.program("kube-apiserver", version) as server:

                def ready() -> ApiServer | None:
                    assert server.poll() is None and kine.poll() is None, f"ended: see {self.log(version)}"
                    found = api.connect_api(self.root, load_settings(self.root))
                    with urllib.request.urlopen(f"{found.server}/readyz", context=found.context, timeout=5) as answer:
                        return found if answer.read() == b"ok" else None

                found = until(ready, "the API server", START)
                assert found.call("GET", "/version")["gitVersion"] == version
                yield found, done

    @contextmanager
    def program(self, name: str, version: str) -> Iterator[subprocess.Popen[bytes]]:
        """A program with the arguments that its unit has, ended at the end."""
        words = (self.root / f"run/edge-osbuild/kubernetes/{name}.env").read_text().removeprefix("ARGS=").split()
        with ExitStack() as stack:
            log = stack.enter_context(self.log(version).open("ab"))
            command = [str(self.binary(version)), name, *words]
            running = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            stack.callback(end_process, running)
            yield running
            assert running.poll() is None, f"{name} {version} has ended: see {self.log(version)}"

    def log(self, version: str) -> Path:
        return self.root / f"{version}.log"

    def stamp(self) -> str:
        found = version_record.read_record(self.system)
        assert found
        return str(found.release)


def end_process(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    try:
        running.wait(60)
    except subprocess.TimeoutExpired:
        running.kill()


RELEASES = upstream_versions.list_releases()
SERVER = {"role": "server", "config": {"node-name": NODE, "kube-apiserver-arg": ["bind-address=127.0.0.1"]}}


def node_program(root: Path, cache: Cache) -> Path:
    """Put `edge-node` below `root`."""
    path = root / join.PROGRAM
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(upstream_programs.build_small_program("node", Architecture.native(), cache))
    return path


def settings(root: Path, image: dict[str, Any], seed: dict[str, Any] | None = None) -> None:
    """What an image and a seed say about Kubernetes."""
    for name, content in ((IMAGE_FILE, image), (SEED_FILE, seed or {})):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))


def image(root: Path, role: str, version: str) -> None:
    """Have the slot's image be one with that release."""
    facts = {"kubernetes": {"role": role, "distribution": "upstream", "version": version}}
    path = root / "usr/lib/edge-osbuild/image.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))


def agent(root: Path, server: ControlPlane, version: str) -> System:
    """The same node's root as if it were an agent: the kubelet's rights and no others."""
    seed = {"server": f"https://127.0.0.1:{API_PORT}", "token": "any"}
    settings(root, {"role": "agent", "config": {"node-name": NODE}}, seed)
    image(root, "agent", version)
    kubeconfig = root / "var/lib/kubernetes/kubelet.conf"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch(0o600)
    kubeconfig.write_text((server.root / "var/lib/kubernetes/kubelet.conf").read_text())
    return System(root)


def make_node(server: ApiServer, name: str) -> None:
    """A node that is Ready and takes pods."""
    server.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "2", "memory": "2Gi", "pods": "50"},
        "capacity": {"cpu": "2", "memory": "2Gi", "pods": "50"},
    }
    server.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, kind=api.MERGE_PATCH)
    server.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, kind=api.MERGE_PATCH)


def make_pod(server: ApiServer, name: str, owner: str = "", *, node: str | None = NODE, **labels: str) -> None:
    """A pod, which runs if `node` says where; else the scheduler has to find a node."""
    owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": UNIQUE, "controller": True}] if owner else []
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
    """End pods that are to be ended, once."""
    for pod in server.call("GET", PODS)["items"]:
        if pod["metadata"].get("deletionTimestamp"):
            server.call("DELETE", f"{PODS}/{pod['metadata']['name']}?gracePeriodSeconds=0")


def configmap(server: ApiServer, name: str, value: str = "x") -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}
    server.call("POST", CONFIGMAPS, body)


def configmaps(server: ApiServer) -> list[str]:
    """Those of the test; the cluster makes one by itself."""
    names = (one["metadata"]["name"] for one in server.call("GET", CONFIGMAPS)["items"])
    return sorted(name for name in names if name != "kube-root-ca.crt")


def revision(server: ApiServer) -> int:
    return int(server.call("GET", CONFIGMAPS)["metadata"]["resourceVersion"])


def watch(server: ApiServer, since: int, seconds: int = 3) -> list[dict[str, Any]]:
    """Events of ConfigMaps after a revision, for `seconds` (API concepts, "Efficient detection of changes")."""
    url = f"{server.server}{CONFIGMAPS}?watch=1&resourceVersion={since}&timeoutSeconds={seconds}"
    with urllib.request.urlopen(url, context=server.context, timeout=seconds + 60) as answer:
        return [json.loads(line) for line in answer]


def spec(server: ApiServer, name: str = NODE) -> dict[str, Any]:
    """A node's `spec`."""
    found: dict[str, Any] = server.call("GET", f"/api/v1/nodes/{name}")["spec"]
    return found
