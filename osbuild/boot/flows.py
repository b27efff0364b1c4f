"""The boot flows by name."""

from osbuild.board import Board
from osbuild.boot.flow import Flow
from osbuild.boot.uboot import UBoot
from osbuild.boot.uefi import Uefi

FLOWS: dict[str, Flow] = {"uefi": Uefi(), "uboot": UBoot()}


def flow(board: Board) -> Flow:
    """The boot flow of a board."""
    return FLOWS[board.boot]
