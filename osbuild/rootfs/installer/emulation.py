"""Runs a command while the kernel starts programs of another architecture with qemu-user.

    python3 -m osbuild.rootfs.installer.emulation ARCHITECTURE NAME COMMAND...

The emulator is registered with binfmt_misc as NAME (kernel.org, admin-guide/binfmt-misc) and takes precedence over a
registration of the host. With the flag F, the kernel opens the emulator at registration, so it works in every chroot.

binfmt_misc is mounted in the sandbox's mount namespace. Since Linux 6.7 a registration ends with the last mount of
binfmt_misc, so a killed build leaves no registration. With older kernels, and if the host mounts binfmt_misc too, the
registration of a killed build remains until the next build registers the same name.

A registration in a user namespace (also since Linux 6.7) would not affect the host at all. But in a user namespace,
device files can't be created, diskimage-builder's hooks can't mount /proc and /sys, and older kernels lack it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.rootfs.installer.abi import ABIS, MASK, Abi
from osbuild.rootfs.installer.mounts import Mounts


def registration_line(abi: Abi, name: str, emulator: Path) -> str:
    """Return the line that registers `emulator`. Flags: P preserves argv[0], F opens the emulator at once."""

    def escaped(data: bytes) -> str:
        return "".join(f"\\x{byte:02x}" for byte in data)

    return f":{name}:M::{escaped(abi.magic)}:{escaped(MASK)}:{emulator}:PF"


@contextmanager
def registered_emulator(abi: Abi, name: str, folder: Path) -> Iterator[None]:
    """Let this system's emulator run programs of `abi`. `folder` is an empty mount point. Raises `OSError`."""
    with Mounts() as mounts:
        mounts.add("binfmt_misc", folder, "binfmt_misc")
        entry = folder / name
        if entry.exists():
            entry.write_text("-1")
        (folder / "register").write_text(registration_line(abi, name, Path("/usr/bin", f"qemu-{abi.qemu}")))
        try:
            yield
        finally:
            entry.write_text("-1")


def main(architecture: str, name: str, *command: str) -> int:
    """Run `command` while programs of `architecture`, a Debian name, can run. Returns its exit status."""
    folder = Path("/run/binfmt_misc")
    folder.mkdir()
    try:
        with registered_emulator(ABIS[architecture], name, folder):
            return subprocess.run(command, check=False).returncode
    except OSError as error:
        print(
            f"error: programs of {architecture} can't be run here: {error}. The kernel needs binfmt_misc, and in a "
            "container the right to mount it: build on the machine itself, or in a privileged container",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
