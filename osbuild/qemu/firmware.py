"""Finds a machine's firmware: UEFI for its flash, or U-Boot on its disk."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from osbuild.formats.fat import Fat
from osbuild.host.architecture import Architecture
from osbuild.seed.esp_seed import find_esp
from osbuild.shared.errors import Error


@dataclass(frozen=True)
class UefiBuild:
    """Debian's builds of EDK2 for an architecture. File names are relative to the root that QEMU runs in."""

    code: tuple[str, ...]
    """code images, the preferred one first"""
    vars: tuple[str, ...]
    """templates of the variable store, in the same order"""
    package: str
    """the Debian package that has them"""


# Code images without Secure Boot, which needs no SMM, because SMM is slow to emulate. Images for ARM are padded to
# 64 MiB, the size of a flash chip of QEMU's `virt`.
UEFI = {
    Architecture.x86_64: UefiBuild(
        code=("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_CODE.fd"),
        vars=("usr/share/OVMF/OVMF_VARS_4M.fd", "usr/share/OVMF/OVMF_VARS.fd"),
        package="ovmf",
    ),
    Architecture.arm64: UefiBuild(
        code=("usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "usr/share/AAVMF/AAVMF_CODE.fd"),
        vars=("usr/share/AAVMF/AAVMF_VARS.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
        package="qemu-efi-aarch64",
    ),
    Architecture.armv7: UefiBuild(
        code=("usr/share/AAVMF/AAVMF32_CODE.fd",),
        vars=("usr/share/AAVMF/AAVMF32_VARS.fd",),
        package="qemu-efi-arm",
    ),
}


@dataclass(frozen=True)
class Firmware:
    """UEFI: `code` is a path in QEMU's root, `template` of the variable store a path of the host."""

    code: Path
    template: Path


def find_firmware(architecture: Architecture, root: Path = Path("/")) -> Firmware:
    """Find the UEFI firmware in `root`, the root that QEMU runs in. Raises `Error` if it is not installed."""
    uefi = UEFI[architecture]
    for code, template in zip(uefi.code, uefi.vars, strict=True):
        if (root / code).exists() and (root / template).exists():
            return Firmware(Path("/") / code, root / template)
    raise Error(
        f"the UEFI firmware for {architecture} is missing",
        where=str(root / uefi.code[0]),
        hint=f"install Debian's package {uefi.package}",
    )


def extract_files(image: Path, names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Copy files from the ESP of `image`, by path, to `folder`, and return name -> copy.

    An emulated board has no boot ROM to read them. Raises `Error` if the image is not raw or lacks a file.
    """
    copies: dict[str, Path] = {}
    with image.open("rb") as file:
        fat = Fat(file, find_esp(image).offset, str(image))
        files = {str(entry.path).lower(): entry for entry in fat.walk() if not entry.folder}
        for name in names:
            entry = files.get(name.lower())  # FAT knows no case
            if entry is None:
                raise Error(
                    f"the ESP does not contain {name}", where=str(image), hint="check that it was built for this board"
                )
            copies[name] = folder / PurePosixPath(name).name
            copies[name].write_bytes(fat.read(entry))
    return copies
