"""The configuration of a virtual machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.config.board import Board, load_board
from osbuild.host.architecture import Architecture

# (command, host paths that must be visible at the same path) -> the command to execute
Wrap = Callable[[Sequence[str], Sequence[Path]], list[str]]

MEMORY = 2 * 2**30
CPUS, MOST_CPUS = 2, 64


def run_directly(command: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return `command`: the `Wrap` for a QEMU that is installed on the host."""
    return list(command)


@dataclass(frozen=True)
class Forward:
    """A TCP port of the guest, forwarded from port `host` on 127.0.0.1; QEMU chooses a free port for 0."""

    guest: int
    host: int = 0

    def to_qemu(self) -> str:
        """Return a `hostfwd` rule of `-netdev user` (qemu(1))."""
        return f"tcp:127.0.0.1:{self.host}-:{self.guest}"


@dataclass(frozen=True)
class MachineNetwork:
    """A private user-mode network of one machine."""

    forwards: tuple[Forward, ...] = (Forward(22),)
    restrict: bool = False
    """the guest can't connect to the host or beyond; forwards still work"""
    mac: str = "52:54:00:ed:9e:01"


@dataclass(frozen=True)
class DirectKernel:
    """A kernel that QEMU loads without firmware."""

    kernel: Path
    initrd: Path | None = None
    arguments: str = ""


@dataclass(frozen=True)
class MachineConfig:
    """A virtual machine. Paths are paths of the host."""

    board: Board = field(default_factory=lambda: load_board("x86_64"))
    image: Path | None = None
    """the first disk, raw or qcow2; never written to"""
    memory: int | None = None
    """bytes; None is 2 GiB, or the board's fixed amount"""
    cpus: int | None = None
    """None is 2, or the board's fixed number"""
    persist: Path | None = None
    """a qcow2 file that stores the disk's writes permanently; without it they are dropped at the end"""
    disk_size: int | None = None
    """bytes, if the first disk is to be larger than the image"""
    disks: tuple[Path, ...] = ()
    """further disks, raw or qcow2, written in place; the first one boots if there is no image"""
    nvme: tuple[Path, ...] = ()
    """disks, each on its own NVMe controller, written in place, never booted; for boards with PCI"""
    media: tuple[Path, ...] = ()
    """read-only media, such as a seed ISO"""
    write_log: Path | None = None
    """a file to which every write to the first disk is logged, over all boots (the format of dm-log-writes)"""
    network: MachineNetwork | None = field(default_factory=MachineNetwork)
    direct: DirectKernel | None = None
    """boot this instead of the firmware"""
    watchdog: bool = False
    """an i6300esb, whose timeout resets the machine; for boards with PCI"""
    extra: tuple[str, ...] = ()
    """further arguments of QEMU"""

    @property
    def architecture(self) -> Architecture:
        """The board's architecture."""
        return self.board.architecture
