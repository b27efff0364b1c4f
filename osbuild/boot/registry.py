"""The boot flows by name."""

from osbuild.boot.flow import BootFlow
from osbuild.boot.uboot import UBootFlow
from osbuild.boot.uefi import UefiFlow
from osbuild.config.board import Board

BOOT_FLOWS: dict[str, BootFlow] = {"uefi": UefiFlow(), "uboot": UBootFlow()}


def boot_flow(board: Board) -> BootFlow:
    """Return the boot flow of a board."""
    return BOOT_FLOWS[board.boot]
