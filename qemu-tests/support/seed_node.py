"""A node's root in a sandbox: the image's own cloud-init and edge agent configure it from a seed, without a boot."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.image_description import DESCRIPTION_FILE, ImageDescription, SeedRule

TIMEOUT = 120  # seconds
UPPER = "run/edge-osbuild/etc/upper"
# Like the initrd (mount-state): an overlayfs in memory over the image's /etc.
ETC = (
    "mkdir -p /run/edge-osbuild/etc/upper /run/edge-osbuild/etc/work && mount -t overlay -o "
    "lowerdir=/etc,upperdir=/run/edge-osbuild/etc/upper,workdir=/run/edge-osbuild/etc/work overlay /etc && "
    'exec "$@"'
)


def unpack_image_root(image: Path, target: Path, tools: ToolsTree) -> Path:
    """Extract the files of a root.erofs (fsck.erofs(1)), which tests must not change."""
    tools.run_command(["fsck.erofs", f"--extract={target}", image], [image, target.parent])
    return target


@dataclass(frozen=True)
class SeedNode:
    """A node with the files of an image. The contents of `folder` except /run survive a reboot, as on a device."""

    folder: Path
    root: Path

    @classmethod
    def make(cls, folder: Path, root: Path, *, media: str | None = None) -> "SeedNode":
        """Make a node that was never booted. `media` is the image's policy for media, None for the default."""
        node = cls(folder, root)
        for name in ("var", "run", "tmp", "efi", "usr/lib/edge-osbuild"):
            (folder / name).mkdir(parents=True)
        description = ImageDescription.parse((root / DESCRIPTION_FILE).read_text())
        if media:
            description = replace(description, seed=SeedRule(media=media))
        (folder / "image.json").write_text(description.to_text())
        (folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        result = node.run("systemd-tmpfiles", "--create", "--prefix=/var")
        assert (folder / "var/home").is_dir(), result.stderr
        return node

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image, as root, without a network."""
        arguments = [
            "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net",
            "--hostname", "localhost", "--cap-add", "ALL", "--tmpfs", "/", "--dev", "/dev", "--proc", "/proc",
            "--tmpfs", "/sys", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin",
        ]  # fmt: skip
        for path in sorted(self.root.iterdir()):
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), f"/{path.name}"]
            elif path.name in ("usr", "etc"):
                arguments += ["--ro-bind", str(path), f"/{path.name}"]
        for name in ("var", "run", "tmp", "efi"):
            arguments += ["--bind", str(self.folder / name), f"/{name}"]
        arguments += ["--ro-bind", str(self.folder / "image.json"), f"/{DESCRIPTION_FILE}"]
        arguments += ["--ro-bind", str(self.folder / "machine-id"), "/etc/machine-id"]
        arguments += ["--", "sh", "-c", ETC, "sh", *command]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    def agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-agent seed …`."""
        return self.run("edge-agent", "seed", *arguments)

    def power_on(self) -> None:
        """Remove what a device has in memory: /run, with the changes to /etc, and cloud-init's state."""
        for name in ("run", "var/lib/cloud"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        for name in ("cloud-init", "edge-osbuild"):
            (self.folder / "run" / name).mkdir()

    def boot(self, seed: Mapping[str, bytes] | None = None) -> dict[str, Any]:
        """Boot with `seed` on the ESP, or with the node's stored seed. Returns the report, with output and status."""
        self.power_on()
        if seed is not None:
            self.put(seed)
        find_result = self.agent("find", "--wait", "0")
        assert find_result.returncode == 0, find_result.stderr
        configure_result = self.agent("configure")
        report: dict[str, Any] = json.loads((self.folder / "run/edge-osbuild/seed.json").read_text())
        report["output"] = find_result.stdout + find_result.stderr + configure_result.stdout + configure_result.stderr
        report["status"] = configure_result.returncode
        return report

    def put(self, seed: Mapping[str, bytes]) -> None:
        """Replace the seed on the ESP."""
        folder = self.folder / "efi/seed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in seed.items():
            (folder / name).write_bytes(data)

    def path(self, name: str) -> Path:
        """Return the path of the current contents of a file of the node."""
        if name.startswith("etc/"):
            upper = self.folder / UPPER / name.removeprefix("etc/")
            return upper if upper.exists() else self.root / name
        return self.folder / name.replace("home/", "var/home/", 1)

    def text(self, name: str) -> str:
        return self.path(name).read_text()

    def user(self, name: str) -> list[str] | None:
        """Return the fields of a user's line in passwd(5); None if there is none."""
        lines = (line.split(":") for line in self.text("etc/passwd").splitlines())
        return next((line for line in lines if line[0] == name), None)

    def keys(self, name: str) -> str:
        """Return a user's authorized keys."""
        path = self.path(f"etc/ssh/authorized_keys.d/{name}")
        return path.read_text() if path.exists() else ""
