"""Boot flows: the ways from power-on to the kernel. Slots, tries and the good state mean the same on all of them.

A slot's boot image contains kernel, initrd and the root hash of its root file system. The ESP has one for each slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from osbuild.boot.kernel import Kernel
from osbuild.boot.slot import SlotImage
from osbuild.config.board import Board
from osbuild.config.checks.kernel import split_arguments
from osbuild.sandbox.tools_tree import ToolsTree


@dataclass(frozen=True)
class BootParts:
    """The inputs of boot images. `packages` is a folder with the board's unpacked packages.

    `epoch` is the modification time of all files, in seconds since 1970.
    """

    board: Board
    tools: ToolsTree
    packages: Path
    kernel: Kernel
    initrd: Path
    epoch: int


@dataclass(frozen=True)
class ExtraPartition:
    """A partition that only one boot flow has: its type (a name or UUID of repart.d(5)), size and first bytes."""

    label: str
    type: str
    size: int
    content: bytes = field(default=b"", repr=False)


class BootFlow(Protocol):
    """One boot flow. It is stateless."""

    suffix: str
    """of a slot's boot image: `edge-a.SUFFIX`"""

    def packages(self, board: Board) -> tuple[str, ...]:
        """Return the Debian packages, of the board's architecture, that contain firmware and boot loader."""

    def write_boot_image(self, parts: BootParts, slot: str, arguments: str, os_release: Path, output: Path) -> None:
        """Write a slot's boot image with the kernel command line `arguments`. Raises `Error`."""

    def boot_image_path(self, slot: str) -> str:
        """Return the path on the ESP at which the boot image of a slot is booted next."""

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """Write the files of the ESP, except the slots' boot images, to `folder`. Raises `Error`."""

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """Return the partitions that this flow needs after the ESP."""

    def patch_disk(self, disk: Path) -> None:
        """Change bytes outside the partitions of the finished disk image."""


def boot_image_name(flow: BootFlow, slot: str) -> str:
    """Return the name of a slot's boot image in a build folder."""
    return f"edge-{slot}.{flow.suffix}"


def kernel_command_line(slot: str, image: SlotImage, board: Board, extra: Sequence[str]) -> str:
    """Return the kernel command line of `slot`, with the arguments of the board and `extra` ones."""
    # panic=10: an unattended node must reboot. oops=panic: a kernel that has lost a driver's thread may hang silently.
    # A sysctl would set it only after the root is mounted.
    # gpt: otherwise Linux ignores the backup partition table, and a power cut may damage the primary one.
    added = [*board.arguments, *extra]
    has_lockdown = any(argument.startswith("lockdown=") for text in added for argument in split_arguments(text))
    # The kernel is locked down if its modules are signed. `lockdown=` of the board or in `extra` replaces this.
    lockdown = ["lockdown=integrity"] if board.architecture.has_signed_modules() and not has_lockdown else []
    arguments = [
        f"edge.slot={slot}", f"rauc.slot={slot}", f"roothash={image.roothash}", f"edge.salt={image.salt}",
        f"edge.blocks={image.blocks}", "ro", "gpt", "panic=10", "oops=panic", "systemd.gpt_auto=no", "quiet",
        "loglevel=4", "systemd.show_status=no", *lockdown, *(f"console={console}" for console in board.console), *added,
    ]  # fmt: skip
    return " ".join(arguments)
