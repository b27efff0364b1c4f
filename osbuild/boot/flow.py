"""Boot flows: how a slot gets from power-on to its kernel. What a slot means is the same on all of them.

A slot's boot file carries kernel, initrd and the root hash of its root; the boot partition has one for each slot.
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
    """What boot files are made from. `packages` has the board's packages, unpacked over each other.

    `epoch` is the time that files get, in seconds since 1970.
    """

    board: Board
    tools: ToolsTree
    packages: Path
    kernel: Kernel
    initrd: Path
    epoch: int


@dataclass(frozen=True)
class ExtraPartition:
    """A partition of the boot flow's own: its type (a name or UUID of repart.d(5)), size and first bytes."""

    label: str
    type: str
    size: int
    content: bytes = field(default=b"", repr=False)


class BootFlow(Protocol):
    """One way to boot. Has no state: everything is in its arguments."""

    suffix: str
    """of a slot's boot file: `edge-a.SUFFIX`"""

    def packages(self, board: Board) -> tuple[str, ...]:
        """Debian packages, of the board's architecture, that boot files come from."""

    def write_boot_image(self, parts: BootParts, slot: str, words: str, release: Path, output: Path) -> None:
        """Write a slot's boot file, the kernel arguments `words` in it; `release` is the image's os-release(5)."""

    def boot_image_path(self, slot: str) -> str:
        """Where the boot file of a slot goes on the boot partition, to be tried at the next boot."""

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """Write to `folder` what the boot partition holds beside the slots' boot files."""

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """Partitions that the disk needs after the boot partition."""

    def patch_disk(self, disk: Path) -> None:
        """Change of the finished disk what is outside its partitions."""


def boot_image_name(flow: BootFlow, slot: str) -> str:
    """The name of a slot's boot file among the files of a build."""
    return f"edge-{slot}.{flow.suffix}"


def kernel_command_line(slot: str, image: SlotImage, board: Board, extra: Sequence[str]) -> str:
    """The kernel command line of `slot`.

    `panic=10` because a node with nobody beside it must try again, and `oops=panic` because a kernel that has lost a
    driver's thread may hang without ever saying so; sysctl would say it too, but only once the root can be read.
    The kernel is locked down if it can load its own modules then; `lockdown=` in `extra` or in the board replaces this.
    `gpt` because Linux ignores the backup partition table otherwise, and a power cut may tear the primary one.
    """
    added = [*board.arguments, *extra]
    chosen = any(word.startswith("lockdown=") for text in added for word in split_arguments(text))
    lockdown = ["lockdown=integrity"] if board.architecture.has_signed_modules() and not chosen else []
    arguments = [
        f"edge.slot={slot}", f"rauc.slot={slot}", f"roothash={image.roothash}", f"edge.salt={image.salt}",
        f"edge.blocks={image.blocks}", "ro", "gpt", "panic=10", "oops=panic", "systemd.gpt_auto=no", "quiet",
        "loglevel=4", "systemd.show_status=no", *lockdown, *(f"console={console}" for console in board.console), *added,
    ]  # fmt: skip
    return " ".join(arguments)
