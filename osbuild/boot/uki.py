"""The unified kernel image of a slot: kernel, initrd and a command line that carries the slot's root hash."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.arch import Architecture
from osbuild.boot.kernel import Kernel
from osbuild.image.verity import SlotImage
from osbuild.tools import Tree

CONSOLES = {
    Architecture.x86_64: ("console=tty0", "console=ttyS0,115200"),
    Architecture.arm64: ("console=tty0", "console=ttyAMA0,115200"),
    Architecture.armv7: ("console=tty0", "console=ttyAMA0,115200"),
}
SLOTS = ("a", "b")


def command_line(slot: str, image: SlotImage, architecture: Architecture, extra: Sequence[str]) -> str:
    """The kernel command line of `slot`; `panic=10` because a node with nobody beside it must try again."""
    words = [
        f"edge.slot={slot}", f"roothash={image.roothash}", f"edge.salt={image.salt}", f"edge.blocks={image.blocks}",
        "ro", "panic=10", "systemd.gpt_auto=no", "quiet", "loglevel=4", "systemd.show_status=no",
        *CONSOLES[architecture], *extra,
    ]  # fmt: skip
    return " ".join(words)


def build_uki(
    tools: Tree, boot: Path, kernel: Kernel, initrd: Path, os_release: Path, cmdline: str, architecture: Architecture,
    output: Path,
) -> None:  # fmt: skip
    """Write the image to `output` (UAPI.5, unified kernel image); `boot` has the stub (`osbuild.boot.files`)."""
    stub = boot / f"usr/lib/systemd/boot/efi/linux{architecture.to_efi()}.efi.stub"
    tools.run(
        [
            "ukify", "build", f"--linux={kernel.image}", f"--initrd={initrd}", f"--cmdline={cmdline}",
            f"--os-release=@{os_release}", f"--uname={kernel.release}", f"--stub={stub}",
            f"--efi-arch={architecture.to_efi()}", f"--output={output}",
        ],
        [boot, kernel.root, initrd, os_release, output.parent],
        env={"SOURCE_DATE_EPOCH": "0"},
    )  # fmt: skip
