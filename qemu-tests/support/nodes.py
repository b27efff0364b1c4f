"""What the tests of built images share: seeds, booted nodes, and questions to them."""

import json
import os
import time
from collections.abc import Mapping, Sequence
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
"""of consoles; two runs of the tests at once need two"""
USER = "tester"
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
NOT_AVAILABLE = (  # what says why pods are not
    f"{KUBECTL} get nodes",
    f"{KUBECTL} describe deployments,pods",
    "edge-agent explain",
    "journalctl -b --no-pager --lines=200 -u containerd -u 'k*'",
)
MEMORY = 1024 * 2**20  # bytes of a machine without a cluster
BOOT = 900.0  # seconds that a boot may take under emulation on a busy machine
CONNECT = 300.0  # and after that the first SSH connection, of which an emulated Pi takes the longest


def make_seed(
    profile: str | Path, node: str, key: KeyPair, output: Path, *, more: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (), network: str | None = None,
) -> Path:  # fmt: skip
    """Write the seed of `node`, as `render_seed_of` makes it."""
    output.write_bytes(
        make_iso(render_seed_of(profile, node, key, more=more, settings=settings, network=network).with_sums())
    )
    return output


def render_seed_of(
    profile: str | Path, node: str, key: KeyPair, *, more: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (), network: str | None = None,
) -> RenderedSeed:  # fmt: skip
    """The seed of `node`: the shipped profile with one user who may do everything. `more` goes into user-data.

    `settings` are like those of `--set`; `network` is network-config instead of the profile's.
    """
    wanted = [setting.parse_setting(text) for text in settings]
    loaded = load_profile(find_profile(profile), change=lambda tree: setting.apply_settings(tree, wanted))
    changed = replace(loaded.profile, users=(User(USER, ssh_keys=(key.public,), sudo=True),))
    seed = render_seed(changed, node, folder=loaded.folder)
    if more:
        data = yaml.safe_load(seed.files["user-data"])
        for name, value in more.items():
            data[name] = [*data.get(name, []), *value] if isinstance(value, list) else value
        seed = RenderedSeed(
            seed.node, seed.instance, {**seed.files, "user-data": "#cloud-config\n" + yaml.safe_dump(data)}
        )
    if network is not None:
        seed = RenderedSeed(seed.node, seed.instance, {**seed.files, "network-config": network})
    return seed


def finish_tools(board: Board) -> ToolsTree:
    """The tools tree that images of the board are finished in."""
    lock = read_lock(load_profile(find_profile("minimal")), board.name)
    assert lock is not None, "the image was built, so there is a lock"
    return make_tools_tree(Cache(), lock.finish_tools)


@dataclass
class Node:
    """A booted machine, and a way in."""

    machine: Machine
    guest: Guest

    def run(self, command: str, *, timeout: float = 120.0) -> str:
        """Standard output of a command that must succeed, run as root."""
        return self.guest.run(f"sudo sh -c {quoted(command)}", timeout=timeout).stdout

    def fails(self, command: str) -> str:
        """Everything that a command says which must not succeed."""
        result = self.guest.run(f"sudo sh -c {quoted(command)}", check=False)
        assert result.status != 0, f"`{command}` succeeded: {result.stdout}"
        return result.stdout + result.stderr

    def status(self) -> dict[str, Any]:
        """What `edge-agent status` says."""
        result = self.guest.run("sudo edge-agent status --json", check=False)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def kubectl(self, arguments: str, *, timeout: float = 120.0) -> str:
        """Output of kubectl as the cluster's administrator."""
        return self.run(f"{KUBECTL} {arguments}", timeout=timeout)

    def rolled_out(self, deployment: str, timeout: float = 300.0) -> None:
        """Wait until a deployment's pods are available. Fails with what the cluster and the node say about them."""
        try:
            self.kubectl(f"rollout status deployment/{deployment} --timeout={timeout:g}s", timeout=timeout + 20)
        except CommandFailed as error:
            raise AssertionError(f"{error}\n{self.says(NOT_AVAILABLE)}") from error

    def says(self, commands: Sequence[str]) -> str:
        """Commands, each with what it says, whether it succeeds or not."""
        said = [(command, self.guest.run(f"sudo sh -c {quoted(command)}", check=False)) for command in commands]
        return "\n".join(f"$ {command}\n{result.stdout}{result.stderr}" for command, result in said)

    def power_cycle(self) -> None:
        """Pull the plug, and wait for a boot that is complete."""
        self.machine.power_cut()
        self.machine.boot_again()
        self.wait_complete()
        self.guest.wait_ready(CONNECT)

    def wait_complete(self, timeout: float = BOOT) -> None:
        """Wait until the console tells of a boot that was found healthy."""
        self.machine.console.wait_for(COMPLETE, timeout)

    def wait_good(self, timeout: float = 60.0) -> None:
        """Wait until the running slot's boots are not counted any more, which is done after the boot is complete."""
        self.until('edge-agent status --json | grep -q \'"state": "good"\'', timeout)

    def until(self, command: str, timeout: float) -> str:
        """Repeat a command until it succeeds. Fails with what it said last."""
        end = time.monotonic() + timeout
        while True:
            result = self.guest.run(f"sudo sh -c {quoted(command)}", check=False)
            if result.status == 0:
                return result.stdout
            assert time.monotonic() < end, f"`{command}` after {timeout} s: {result.stdout}{result.stderr}"
            time.sleep(2)


def quoted(command: str) -> str:
    """For the guest's shell."""
    return "'" + command.replace("'", "'\\''") + "'"
