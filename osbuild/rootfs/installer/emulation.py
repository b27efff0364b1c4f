"""Run a command while the kernel starts programs of another architecture by qemu-user.

    python3 -m osbuild.rootfs.installer.emulation ARCHITECTURE NAME COMMAND...

The emulator is registered with binfmt_misc as NAME, with the flag F: the kernel opens the emulator now, so it is found
from inside every chroot (kernel.org, admin-guide/binfmt-misc). It covers any registration that the host has. The file
system is mounted here, in the sandbox's mount namespace: since Linux 6.7 a registration ends with the last mount of
it, so even a killed build leaves nothing. Older kernels, and hosts that have it mounted themselves, keep one until it
is removed: that of a killed build goes when the next one registers the same name.

A registration in a user namespace (also Linux 6.7) would be out of the host's sight altogether. But device files
can't be made there, nor /proc and /sys mounted by diskimage-builder's hooks, and older kernels would need this anyway.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.rootfs.installer.abi import ABIS, MASK, Abi
from osbuild.rootfs.installer.mounts import Mounts


def registration_line(abi: Abi, name: str, emulator: Path) -> str:
    """The line that registers `emulator`. Flags: P keeps the name that a program was called by, F opens it now."""

    def escaped(data: bytes) -> str:
        return "".join(f"\\x{byte:02x}" for byte in data)

    return f":{name}:M::{escaped(abi.magic)}:{escaped(MASK)}:{emulator}:PF"


@contextmanager
def registered_emulator(abi: Abi, name: str, folder: Path) -> Iterator[None]:
    """Have programs of `abi` run by the emulator of this system; `folder` is an empty one. Raises `OSError`."""
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
    """Run `command` for `architecture`, as Debian calls it. Returns its status."""
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
