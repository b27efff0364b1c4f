"""The nodes that the tests run against: a machine in QEMU, or the programs of an image with the kernel of this host."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from support.nodes import BOOT, CONNECT, LARGER_DISK, LOGS_FOLDER, USER, Node, make_seed

from conformance import container_images
from osbuild.config import upstream_versions
from osbuild.config.board import Board
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.qemu.config import Forward, MachineConfig, MachineNetwork
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from osbuild.shared.errors import Error
from osbuild.shared.node_settings import API_PORT

SCRIPT = Path(__file__).with_name("native_node.sh")
START = 400.0  # seconds until a node in namespaces must be ready
MEMORY = 4 * 2**30
# Settings of a node in namespaces: the kernel of this host has cgroups of version 1, and its settings are not changed.
NATIVE_CONFIG = {
    "node-name": "conformance",
    "protect-kernel-defaults": False,
    "kubelet-arg": ["cgroup-driver=cgroupfs", "fail-cgroupv1=false"],
}


@dataclass(frozen=True, kw_only=True)
class TestTarget:
    """A running node. `folder` is for reports: its path on this host, `inside` that for the programs of the tests.

    `prefix` begins each command that runs beside the node; `kubeconfig` and `kubectl` are paths for such a command.
    """

    __test__ = False
    description: str
    folder: Path
    inside: Path
    prefix: tuple[str, ...]
    kubeconfig: str
    kubectl: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a program that talks to the node's API server."""
        return [*self.prefix, *arguments]


@dataclass(frozen=True)
class NodeImage:
    """The image of a node: its build folder, the profile and board that it was built for, and its root hash."""

    folder: Path
    profile: str
    board: Board
    root_hash: str = ""


@contextmanager
def native_node(image: NodeImage, folder: Path, archive: Path) -> Iterator[TestTarget]:
    """Run the node of `native_node.sh` . Raises `Error`."""
    for name in ("rw", "lower", "root", "var", "files"):
        (folder / name).mkdir(parents=True)
    files = folder / "files"
    shutil.copy(archive, files / "images.tar")
    (files / "kubernetes.json").write_text(json.dumps({"config": NATIVE_CONFIG}))
    command: list[str | Path] = [
        "unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", SCRIPT, folder,
        image.folder / "root.erofs",
    ]  # fmt: skip
    with (folder / "node.log").open("wb") as output, ExitStack() as stack:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        stack.callback(remove_cgroups, folder)
        stack.callback(end_node, process)
        deadline = time.monotonic() + START
        while not (files / "ready").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                hint = f"read {folder / 'node.log'} and {files / 'logs'}"
                raise Error("the node in namespaces is not ready", where=str(SCRIPT), hint=hint)
            time.sleep(1)
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        yield TestTarget(
            description=f"the programs of the image with the kernel of a host ({os.uname().release})",
            folder=files, inside=Path("/run/files"), kubeconfig="/etc/kubernetes/admin.conf",
            kubectl="/usr/bin/kubectl",
            prefix=("nsenter", f"--target={inner}", "--mount", "--net", "--uts", "--ipc", "--"),
        )  # fmt: skip


def end_node(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a node in namespaces: the kernel kills them with the first of its process namespace."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def remove_cgroups(folder: Path) -> None:
    """Remove the control groups that the node has left, in every hierarchy, once its processes have ended."""
    deadline = time.monotonic() + 30
    while tops := list(Path("/sys/fs/cgroup").glob(f"*/edge-conformance-{folder.name}")):
        for group in sorted((path for top in tops for path in (top, *top.rglob("*")) if path.is_dir()), reverse=True):
            with suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            log.warn(f"control groups are left: {tops[0]}")
            return
        time.sleep(0.2)


@contextmanager
def booted_node(image: NodeImage, folder: Path, archive: Path) -> Iterator[TestTarget]:
    """Boot the image in QEMU, and import the container images. Raises `Error`."""
    board = image.board
    key = KeyPair.generate(folder / "ssh")
    seed = make_seed(image.profile, "conformance", key, folder / "seed.iso")
    disk = image.folder / "disk.img"
    config = MachineConfig(
        board=board, image=disk, memory=MEMORY, disk_size=disk.stat().st_size + LARGER_DISK, media=(seed, archive),
        network=MachineNetwork(forwards=(Forward(22), Forward(API_PORT)), restrict=True),
    )  # fmt: skip
    with Machine(config, log=LOGS_FOLDER / "conformance.log", emulator=find_emulator(board.architecture)) as machine:
        node = Node(machine, machine.guest(USER, key))
        with log.step("booting"):
            node.wait_complete(BOOT)
            node.guest.wait_ready(CONNECT)
        with log.step("importing container images"):
            # The last disk is the archive itself.
            node.run("ctr --namespace k8s.io images import /dev/vdc", timeout=900)
            for name in container_images.NAMES:
                node.run(f"ctr --namespace k8s.io images label {name} io.cri-containerd.pinned=pinned")
        kubeconfig, kubectl = folder / "admin.conf", folder / "kubectl"
        text = node.run("cat /etc/kubernetes/admin.conf")
        kubeconfig.touch(0o600)
        kubeconfig.write_text(forward_kubeconfig(text, machine.port(API_PORT)))
        release = upstream_versions.find_release(node.kubectl("version -o json | grep -A9 serverVersion").split(
            '"gitVersion": "')[1].split('"')[0])  # fmt: skip
        kubectl.symlink_to(upstream_programs.build_binary(release, Architecture.native(), Cache()))
        accelerator = "KVM" if "kvm" in str(machine._accelerator).lower() else "TCG"
        yield TestTarget(
            description=f"a machine in QEMU ({accelerator}, 2 processors, {MEMORY >> 30} GiB)", folder=folder,
            inside=folder, prefix=(), kubeconfig=str(kubeconfig), kubectl=str(kubectl),
        )  # fmt: skip


def forward_kubeconfig(text: str, port: int) -> str:
    """Return the administrator's kubeconfig (JSON or YAML) for the port of this host that is forwarded to the node."""
    content = yaml.safe_load(text)
    for entry in content["clusters"]:
        entry["cluster"] |= {"server": f"https://127.0.0.1:{port}", "tls-server-name": "kubernetes.default.svc"}
    return json.dumps(content)
