"""A K3s server on this host: the program of a release, in a sandbox with the folders of a root (bwrap(1)).

It has no agent, so there is no kubelet and nothing changes on this host. It listens on the ports of K3s.
"""

import shlex
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import api, prepare
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import k3s_payload, k3s_release
from osbuild.sandbox.tools_tree import unlocked_tools_tree
from osbuild.shared.node_settings import API_PORT, STABLE_ADDRESS
from support.control_plane import START, end_process, wait_for, write_settings
from support.distributions import K3S

IMAGE: dict[str, Any] = {
    "role": "server",
    "disable": ["coredns", "servicelb", "traefik", "local-storage", "metrics-server"],
    "config": {
        "node-name": "node-1", "node-ip": STABLE_ADDRESS, "disable-agent": True, "flannel-backend": "none",
        "disable-helm-controller": True, "disable-cloud-controller": True,
    },
}  # fmt: skip
SYSTEM = ("bin", "lib", "lib64", "sbin")


def unpack_program() -> Path:
    """Return the inner program of the newest release under test, from the cache if possible. Raises `Error`."""
    cache, architecture = Cache(), Architecture.native()
    settings = KubernetesSettings(version=K3S.releases[-1])
    release = k3s_release.find_release(settings, architecture)
    packed = k3s_release.download_release(release, cache)
    tools = unlocked_tools_tree(cache, "k3s-tests", ("zstd",), "tools for K3s")
    return k3s_payload.unpack_payload(packed, release.sha256, architecture, cache, tools) / "bin/k3s"


def run_program(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def port_is_free() -> bool:
    """Return True, or raise `OSError` if a program listens on the port of the API server."""
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", API_PORT))
    return True


class K3sServer:
    """One server's data below `root`. `seed` are the settings of its seed, `config` further options of K3s.

    Without `namespace` it runs in the network of the test.
    """

    def __init__(
        self, root: Path, seed: dict[str, Any], config: dict[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        self.root = root
        self.log = root / "k3s.log"
        self.program = root / "usr/bin/k3s"
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("var/lib", "var/tmp", "run/kubernetes", "etc/kubernetes", "usr/bin"):
            (root / name).mkdir(parents=True)
        (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\nkubernetes:x:900:\n")
        (root / "var/lib/rancher").mkdir()
        (root / "var/lib/rancher/k3s").symlink_to("/var/lib/kubernetes")
        (root / "etc/kubernetes/admin.conf").symlink_to(root / "run/kubernetes/admin.conf")
        binds = [word for name in ("etc", "var", "run") for word in ("--bind", str(root / name), f"/{name}")]
        command = [
            *(["ip", "netns", "exec", namespace] if namespace else []),
            "bwrap", "--die-with-parent", "--tmpfs", "/", "--bind", "/tmp", "/tmp", "--ro-bind", "/usr", "/usr",
            *(word for name in SYSTEM for word in ("--symlink", f"usr/{name}", f"/{name}")),
            "--dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys", *binds, "--bind", str(root), str(root),
            "--ro-bind", str(unpack_program()), "/k3s", "--symlink", "k3s", "/kubectl", "--",
        ]  # fmt: skip
        for name in ("k3s", "kubectl"):
            script = f'#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin\nexec {shlex.join(command)} /{name} "$@"\n'
            path = root / "usr/bin" / name
            path.write_text(script)
            path.chmod(0o755)
        write_settings(root, {**IMAGE, "config": IMAGE["config"] | (config or {})}, seed)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of K3s."""
        return run_program(self.program, *arguments)

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_program(self.root / "usr/bin/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", *arguments)

    def begin(self) -> subprocess.Popen[bytes]:
        """Do what a boot does, and start the server."""
        prepare.prepare_node(self.root)
        with self.log.open("ab") as log:
            process = subprocess.Popen([str(self.program), "server"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.process = process
        return process

    def start_beside_others(self) -> None:
        """Start the server in its namespace, and wait until it is ready."""
        process = self.begin()

        def ready() -> bool:
            assert process.poll() is None, f"ended: see {self.log}"
            return self.kubectl("get", "--raw", "/readyz").stdout == "ok"

        wait_for(ready, f"the API server of K3s: see {self.log}", START)

    def server(self) -> ApiServer:
        """The API server, of a test in the same network."""
        return api.connect_api(self.root, load_settings(self.root))

    def start(self) -> ApiServer:
        """Start the server in the network of the test, and wait until it is ready."""
        # The sandbox ends before the program in it, which may still have the port.
        wait_for(port_is_free, f"another program uses the port {API_PORT}", 30)
        process = self.begin()

        def ready() -> ApiServer | None:
            assert process.poll() is None, f"ended: see {self.log}"
            server = self.server()
            with urllib.request.urlopen(f"{server.server}/readyz", context=server.context, timeout=5) as answer:
                return server if answer.read() == b"ok" else None

        return wait_for(ready, "the API server of K3s", START)

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self.process:
            self.process.kill()  # bwrap, with which all of its sandbox ends
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self.process:
            end_process(self.process)
            self.process = None
