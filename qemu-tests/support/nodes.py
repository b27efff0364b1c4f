"""Shared code of the tests of built images: seeds, booted nodes, and their commands."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from osbuild.config import overrides as setting
from osbuild.config.board import Board
from osbuild.config.load import find_profile, load_profile
from osbuild.config.profile import User
from osbuild.host import paths
from osbuild.host.cache import Cache
from osbuild.inputs.lock import read_lock
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import CommandFailed, Guest, KeyPair
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree
from osbuild.seed.iso import make_iso
from osbuild.seed.render import RenderedSeed, render_seed

LOGS_FOLDER = Path(os.environ.get("EDGE_TEST_LOGS") or paths.PROJECT / "build/test-logs").absolute()
"""logs of consoles; two runs of the tests at the same time need different folders, the processes of one run do not"""
USER = "tester"
MEMBER = "dana"
"""a user in the group `kubernetes`, without sudo"""
COMPLETE = r"edge-osbuild: boot complete: (\S+) (\S+) slot (\w) "
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never, ports: [{containerPort: 8080}]}]
"""
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
POD_DIAGNOSTICS = (  # commands that show why pods are not available
    f"{KUBECTL} get nodes",
    f"{KUBECTL} describe deployments,pods",
    "edge-agent explain",
    "journalctl -b --no-pager --lines=200 -u containerd -u 'k*'",
)
LARGER_DISK = 6 * 2**30  # bytes that the disk of `cluster_node` has beyond its image
MEMORY = 1024 * 2**20  # bytes of a machine without a cluster
BOOT = 900.0  # seconds that a boot may take under emulation on a busy machine
CONNECT = 300.0  # seconds for the first SSH connection after it; the slowest is an emulated Pi


def make_seed(
    profile: str | Path, node: str, key: KeyPair, output: Path, *, user_data: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (), network: str | None = None,
) -> Path:  # fmt: skip
    """Write the seed of `node`, rendered by `render_seed_of`, as an ISO image."""
    output.write_bytes(
        make_iso(
            render_seed_of(profile, node, key, user_data=user_data, settings=settings, network=network).with_sums()
        )
    )
    return output


def render_seed_of(
    profile: str | Path, node: str, key: KeyPair, *, user_data: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (), network: str | None = None,
) -> RenderedSeed:  # fmt: skip
    """Render the seed of `node`: the profile with one user who has sudo, and `user_data` merged into its user-data.

    `settings` are like those of `--set`; `network` replaces the profile's network-config.
    """
    overrides = [setting.parse_setting(text) for text in settings]
    loaded = load_profile(find_profile(profile), change=lambda tree: setting.apply_settings(tree, overrides))
    profile_with_user = replace(loaded.profile, users=(User(USER, ssh_keys=(key.public,), sudo=True),))
    seed = render_seed(profile_with_user, node, folder=loaded.folder)
    if user_data:
        data = yaml.safe_load(seed.files["user-data"])
        for name, value in user_data.items():
            data[name] = [*data.get(name, []), *value] if isinstance(value, list) else value
        seed = RenderedSeed(
            seed.node, seed.instance, {**seed.files, "user-data": "#cloud-config\n" + yaml.safe_dump(data)}
        )
    if network is not None:
        seed = RenderedSeed(seed.node, seed.instance, {**seed.files, "network-config": network})
    return seed


def image_tools(board: Board) -> ToolsTree:
    """Return the image tools tree of the board."""
    lock = read_lock(load_profile(find_profile("minimal")), board.name)
    assert lock is not None, "the image was built, so there is a lock"
    return make_tools_tree(Cache(), lock.image_tools)


@dataclass
class Node:
    """A booted machine and its SSH connection."""

    machine: Machine
    guest: Guest

    def run(self, command: str, *, timeout: float = 120.0) -> str:
        """Run a command as root, which must succeed, and return its standard output."""
        return self.guest.run(f"sudo sh -c {quote_shell(command)}", timeout=timeout).stdout

    def run_failing(self, command: str) -> str:
        """Run a command as root, which must fail, and return all of its output."""
        result = self.guest.run(f"sudo sh -c {quote_shell(command)}", check=False)
        assert result.status != 0, f"`{command}` succeeded: {result.stdout}"
        return result.stdout + result.stderr

    def status(self) -> dict[str, Any]:
        """Return the output of `edge-agent status --json`."""
        result = self.guest.run("sudo edge-agent status --json", check=False)
        status: dict[str, Any] = json.loads(result.stdout)
        return status

    def kubectl(self, arguments: str, *, timeout: float = 120.0) -> str:
        """Run kubectl as the cluster's administrator, and return its output.

        An emulated node whose pods start may not open a connection within ten seconds: kubectl is run again then.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return self.run(f"{KUBECTL} {arguments}", timeout=timeout)
            except CommandFailed as error:
                if "TLS handshake timeout" not in error.result.stderr or time.monotonic() > end:
                    raise

    def wait_rolled_out(self, deployment: str, timeout: float = 300.0) -> None:
        """Wait until a deployment's pods are available. Fails with the output of `POD_DIAGNOSTICS`."""
        try:
            self.kubectl(f"rollout status deployment/{deployment} --timeout={timeout:g}s", timeout=timeout + 20)
        except CommandFailed as error:
            raise AssertionError(f"{error}\n{self.command_outputs(POD_DIAGNOSTICS)}") from error

    def command_outputs(self, commands: Sequence[str]) -> str:
        """Run commands, which may fail, and return each with its output."""
        results = [(command, self.guest.run(f"sudo sh -c {quote_shell(command)}", check=False)) for command in commands]
        return "\n".join(f"$ {command}\n{result.stdout}{result.stderr}" for command, result in results)

    def power_cycle(self) -> None:
        """Cut the power, power on, and wait for a complete boot."""
        self.machine.power_cut()
        self.machine.boot_again()
        self.wait_complete()
        self.guest.wait_ready(CONNECT)

    def wait_complete(self, timeout: float = BOOT) -> None:
        """Wait until the console reports a healthy boot."""
        self.machine.console.wait_for(COMPLETE, timeout)

    def wait_good(self, timeout: float = 60.0) -> None:
        """Wait until the running slot is good, which happens after the boot is complete."""
        self.wait_until('edge-agent status --json | grep -q \'"state": "good"\'', timeout)

    def wait_until(self, command: str, timeout: float) -> str:
        """Repeat a command until it succeeds, and return its output. Fails with the last output after `timeout`."""
        end = time.monotonic() + timeout
        while True:
            result = self.guest.run(f"sudo sh -c {quote_shell(command)}", check=False)
            if result.status == 0:
                return result.stdout
            assert time.monotonic() < end, f"`{command}` after {timeout} s: {result.stdout}{result.stderr}"
            time.sleep(2)


@dataclass
class ServerNode(Node):
    """A server node whose seed can be changed for its next boot; `write_seed` takes settings like those of `--set`."""

    write_seed: Callable[..., None]


def quote_shell(command: str) -> str:
    """Quote a command for the guest's shell."""
    return "'" + command.replace("'", "'\\''") + "'"
