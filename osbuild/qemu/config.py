"""What a virtual machine is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.arch import Architecture
from osbuild.errors import Error

# (command, host paths that must be visible at the same path) -> the command to execute
Wrap = Callable[[Sequence[str], Sequence[Path]], list[str]]


def direct(command: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """The `Wrap` for a QEMU that is installed on the host itself."""
    return list(command)


@dataclass(frozen=True)
class Platform:
    """How QEMU makes a machine of one architecture; file names are below the root that QEMU runs in."""

    machine: str
    cpu: str
    """the model under TCG"""
    code: tuple[str, ...]
    """UEFI code images, the best first"""
    vars: tuple[str, ...]
    """templates of the UEFI variable store, in the same order"""
    package: str
    """the Debian package that has the firmware"""


# Code images without Secure Boot: these need no SMM, which is slow to emulate. A 32-bit kernel without LPAE cannot
# reach PCI windows above 4 GiB, thus `highmem=off`.
PLATFORMS = {
    Architecture.x86_64: Platform(
        machine="q35",
        cpu="max",
        code=("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_CODE.fd"),
        vars=("usr/share/OVMF/OVMF_VARS_4M.fd", "usr/share/OVMF/OVMF_VARS.fd"),
        package="ovmf",
    ),
    Architecture.arm64: Platform(
        machine="virt",
        cpu="cortex-a72",
        code=("usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "usr/share/AAVMF/AAVMF_CODE.fd"),
        vars=("usr/share/AAVMF/AAVMF_VARS.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
        package="qemu-efi-aarch64",
    ),
    Architecture.armv7: Platform(
        machine="virt,highmem=off",
        cpu="cortex-a15",
        code=("usr/share/AAVMF/AAVMF32_CODE.fd",),
        vars=("usr/share/AAVMF/AAVMF32_VARS.fd",),
        package="qemu-efi-arm",
    ),
}


@dataclass(frozen=True)
class Firmware:
    """UEFI: `code` as QEMU sees its path, `template` of the variable store as this process does."""

    code: Path
    template: Path


def find_firmware(architecture: Architecture, root: Path = Path("/")) -> Firmware:
    """The UEFI firmware below `root`, the root that QEMU runs in. Raises `Error` if it is not installed there."""
    platform = PLATFORMS[architecture]
    for code, template in zip(platform.code, platform.vars, strict=True):
        if (root / code).exists() and (root / template).exists():
            return Firmware(Path("/") / code, root / template)
    raise Error(
        f"no UEFI firmware for {architecture}",
        where=str(root / platform.code[0]),
        hint=f"install Debian's package {platform.package}",
    )


@dataclass(frozen=True)
class Forward:
    """A TCP port of the guest that is reached at `host` on 127.0.0.1; 0 is a free one of QEMU's choice."""

    guest: int
    host: int = 0

    def to_qemu(self) -> str:
        """A `hostfwd` rule of `-netdev user` (qemu(1))."""
        return f"tcp:127.0.0.1:{self.host}-:{self.guest}"


@dataclass(frozen=True)
class Network:
    """A user-mode network of the machine's own."""

    forwards: tuple[Forward, ...] = (Forward(22),)
    restrict: bool = False
    """the guest reaches neither the host nor the world; the forwards still work"""
    mac: str = "52:54:00:ed:9e:01"


@dataclass(frozen=True)
class DirectKernel:
    """A kernel that QEMU loads itself, without firmware."""

    kernel: Path
    initrd: Path | None = None
    arguments: str = ""


@dataclass(frozen=True)
class MachineConfig:
    """A virtual machine. Paths are the host's."""

    architecture: Architecture = Architecture.x86_64
    image: Path | None = None
    """the first disk, raw or qcow2; never written to"""
    memory: int = 2 * 2**30
    """bytes"""
    cpus: int = 2
    persist: Path | None = None
    """a qcow2 file that takes the disk's writes and is kept; without it they are dropped at the end"""
    disk_size: int | None = None
    """bytes, if the first disk is to be larger than the image"""
    disks: tuple[Path, ...] = ()
    """further disks, raw or qcow2, written to as they are"""
    media: tuple[Path, ...] = ()
    """read-only media, such as a seed ISO; virtio disks too, for Debian's cloud kernel knows no IDE or SATA"""
    network: Network | None = field(default_factory=Network)
    direct: DirectKernel | None = None
    """boot this instead of the firmware"""
    watchdog: bool = False
    """an i6300esb, whose time-out resets the machine"""
    extra: tuple[str, ...] = ()
    """further arguments of QEMU"""
