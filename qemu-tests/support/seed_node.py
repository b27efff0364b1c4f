"""A node's root in a sandbox: the image's own cloud-init and agent configure it from a seed, without a boot."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.sandbox.tools_tree import ToolsTree

TIMEOUT = 120  # seconds
UPPER = "run/edge-osbuild/etc/upper"
# As the initrd does it (mount-state): what is written to /etc is in memory, over the image's.
ETC = (
    "mkdir -p /run/edge-osbuild/etc/upper /run/edge-osbuild/etc/work && mount -t overlay -o "
    "lowerdir=/etc,upperdir=/run/edge-osbuild/etc/upper,workdir=/run/edge-osbuild/etc/work overlay /etc && "
    'exec "$@"'
)


def unpack_image_root(image: Path, target: Path, tools: ToolsTree) -> Path:
    """The files of a root.erofs (fsck.erofs(1)), which tests must not change."""
    tools.run_command(["fsck.erofs", f"--extract={target}", image], [image, target.parent])
    return target


@dataclass(frozen=True)
class SeedNode:
    """A node with the files of an image. What is in `folder` besides /run outlives a boot, as on a device."""

    folder: Path
    root: Path

    @classmethod
    def make(cls, folder: Path, root: Path, *, media: str | None = None) -> "SeedNode":
        """A node that was never booted. `media` is what its image says of media with seeds, if not the default."""
        node = cls(folder, root)
        for name in ("var", "run", "tmp", "efi", "usr/lib/edge-osbuild"):
            (folder / name).mkdir(parents=True)
        facts = json.loads((root / "usr/lib/edge-osbuild/image.json").read_text())
        if media:
            facts["seed"] = {"media": media}
        (folder / "image.json").write_text(json.dumps(facts))
        (folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        done = node.run("systemd-tmpfiles", "--create", "--prefix=/var")
        assert (folder / "var/home").is_dir(), done.stderr
        return node

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image, as root, without a network."""
        words = [
            "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net",
            "--hostname", "localhost", "--cap-add", "ALL", "--tmpfs", "/", "--dev", "/dev", "--proc", "/proc",
            "--tmpfs", "/sys", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin",
        ]  # fmt: skip
        for path in sorted(self.root.iterdir()):
            if path.is_symlink():
                words += ["--symlink", str(path.readlink()), f"/{path.name}"]
            elif path.name in ("usr", "etc"):
                words += ["--ro-bind", str(path), f"/{path.name}"]
        for name in ("var", "run", "tmp", "efi"):
            words += ["--bind", str(self.folder / name), f"/{name}"]
        words += ["--ro-bind", str(self.folder / "image.json"), "/usr/lib/edge-osbuild/image.json"]
        words += ["--ro-bind", str(self.folder / "machine-id"), "/etc/machine-id"]
        words += ["--", "sh", "-c", ETC, "sh", *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    def agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-agent seed …`."""
        return self.run("edge-agent", "seed", *arguments)

    def power_on(self) -> None:
        """Forget what is in memory on a device: /run, with /etc, and cloud-init's state."""
        for name in ("run", "var/lib/cloud"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        for name in ("cloud-init", "edge-osbuild"):
            (self.folder / "run" / name).mkdir()

    def boot(self, seed: Mapping[str, bytes] | None = None) -> dict[str, Any]:
        """Boot with `seed` on the ESP, or with what the node has; returns the report, and what was said with it."""
        self.power_on()
        if seed is not None:
            self.put(seed)
        found = self.agent("find", "--wait", "0")
        assert found.returncode == 0, found.stderr
        configured = self.agent("configure")
        report: dict[str, Any] = json.loads((self.folder / "run/edge-osbuild/seed.json").read_text())
        report["said"] = found.stdout + found.stderr + configured.stdout + configured.stderr
        report["status"] = configured.returncode
        return report

    def put(self, seed: Mapping[str, bytes]) -> None:
        """Write a seed to the ESP, in place of the one that is there."""
        folder = self.folder / "efi/seed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in seed.items():
            (folder / name).write_bytes(data)

    def path(self, name: str) -> Path:
        """A file of the node as it is now."""
        if name.startswith("etc/"):
            upper = self.folder / UPPER / name.removeprefix("etc/")
            return upper if upper.exists() else self.root / name
        return self.folder / name.replace("home/", "var/home/", 1)

    def text(self, name: str) -> str:
        return self.path(name).read_text()

    def user(self, name: str) -> list[str] | None:
        """A user's line of passwd(5), split; None if there is none."""
        lines = (line.split(":") for line in self.text("etc/passwd").splitlines())
        return next((line for line in lines if line[0] == name), None)

    def keys(self, name: str) -> str:
        """The keys that let somebody in as a user."""
        path = self.path(f"etc/ssh/authorized_keys.d/{name}")
        return path.read_text() if path.exists() else ""
