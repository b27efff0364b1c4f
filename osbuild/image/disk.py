"""The disk image: a GPT with the ESP and two slots. The device adds the data partition at its first boot."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from osbuild.boot.flow import BootFlow, BootParts
from osbuild.boot.slot import SlotImage
from osbuild.config.machine import DiskSettings
from osbuild.host.architecture import Architecture
from osbuild.image.verity import derived_uuid
from osbuild.shared.errors import Error

MIB = 2**20
# Names of the Discoverable Partitions Specification in repart.d(5).
REPART_ARCH = {Architecture.x86_64: "x86-64", Architecture.arm64: "arm64", Architecture.armv7: "arm"}


@dataclass(frozen=True)
class SlotSize:
    """Sizes of a slot's two partitions in bytes."""

    root: int
    hash_tree: int


def divide_slot(disk: DiskSettings) -> SlotSize:
    """Divide a slot into root and hash tree. The hash tree takes 1/127 of the root, and a block for its superblock."""
    hash_tree = (disk.slot // 126 // MIB + 1) * MIB
    return SlotSize(disk.slot - hash_tree, hash_tree)


def check_headroom(disk: DiskSettings, image: SlotImage) -> int:
    """Return the free share of a slot in percent. Raises `Error` if it is less than the profile's headroom."""
    sizes = divide_slot(disk)
    used = image.root.stat().st_size
    free = 100 - 100 * used // sizes.root
    if used > sizes.root * (100 - disk.headroom) // 100:
        need = (used * 100 // (100 - disk.headroom) // MIB // 64 + 1) * 64 + sizes.hash_tree // MIB
        raise Error(
            f"the root file system occupies {used / MIB:.0f} MiB of a slot of {disk.slot // MIB} MiB: {max(free, 0)} % "
            f"is free for later versions, and `disk.headroom` requires {disk.headroom} %",
            hint=f"set `disk.slot: {need} MiB` in the profile, or remove packages; a slot can't grow on a device later",
        )
    return free


def check_esp_size(disk: DiskSettings, esp: Path, boot_image: Path) -> None:
    """Raise `Error` if the ESP with the files in the folder `esp` has no room for slot B and for an update."""
    # An update writes its staged boot image while the boot images of both slots exist.
    used = sum(path.stat().st_size for path in esp.rglob("*") if path.is_file()) + 2 * boot_image.stat().st_size
    usable = disk.esp * 98 // 100 - MIB  # the rest is for FAT's tables and partly used clusters
    if used > usable:
        need = ((used + MIB) * 100 // 98 // MIB // 64 + 1) * 64
        raise Error(
            f"the ESP of {disk.esp // MIB} MiB has no room for the boot images of both slots and of an update, "
            f"{used / MIB:.0f} MiB",
            hint=f"set `disk.esp: {need} MiB` in the profile; the ESP can't grow on a device later",
        )


@dataclass(frozen=True)
class DiskLayout:
    """The parts of a disk besides the contents of its slots. UUIDs are derived from `identity`."""

    flow: BootFlow
    parts: BootParts
    settings: DiskSettings
    identity: str


def build_disk(layout: DiskLayout, image: SlotImage, boot_image: Path, output: Path) -> None:
    """Write the sparse disk image `output`. Slot A holds `image`, slot B is empty; `boot_image` boots slot A.

    Raises `Error`.
    """
    flow, parts, disk, identity = layout.flow, layout.parts, layout.settings, layout.identity
    scratch = output.parent / "disk"
    esp = scratch / "boot"
    esp.mkdir(parents=True)
    flow.fill_esp(parts, esp)
    esp_path = esp / flow.boot_image_path("a")
    esp_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(boot_image, esp_path)
    check_esp_size(disk, esp, boot_image)
    for path in esp.rglob("*"):  # systemd-repart copies modification times
        os.utime(path, (parts.epoch, parts.epoch))

    extra_partitions = flow.extra_partitions()
    for partition in extra_partitions:
        (scratch / partition.label).write_bytes(partition.content)
    sizes = divide_slot(disk)
    arch = REPART_ARCH[parts.board.architecture]
    definitions = scratch / "repart.d"
    definitions.mkdir()
    partitions = [
        ("esp", "esp", disk.esp, f"Format=vfat\nCopyFiles={esp}:/\n"),
        *((part.label, part.type, part.size, f"CopyBlocks={scratch / part.label}\n") for part in extra_partitions),
        ("root-a", f"root-{arch}", sizes.root, f"CopyBlocks={image.root}\n"),
        ("root-a-verity", f"root-{arch}-verity", sizes.hash_tree, f"CopyBlocks={image.hash_tree}\n"),
        ("root-b", f"root-{arch}", sizes.root, ""),
        ("root-b-verity", f"root-{arch}-verity", sizes.hash_tree, ""),
    ]
    for number, (label, kind, size, more) in enumerate(partitions, start=1):
        (definitions / f"{number}0-{label}.conf").write_text(
            f"[Partition]\nType={kind}\nLabel={label}\nUUID={derived_uuid(identity, label)}\n"
            f"SizeMinBytes={size}\nSizeMaxBytes={size}\n{more}"
        )
    total = disk.esp + sum(part.size for part in extra_partitions) + 2 * disk.slot + disk.data + 2 * MIB
    parts.tools.run_command(
        [
            "systemd-repart", "--empty=create", "--sector-size=512", f"--size={total}", "--offline=yes",
            "--dry-run=no",
            f"--seed={derived_uuid(identity, 'disk')}", f"--definitions={definitions}", f"--architecture={arch}",
            output,
        ],
        [output.parent, image.root.parent],
        env={"SOURCE_DATE_EPOCH": str(parts.epoch)},
    )  # fmt: skip
    flow.patch_disk(output)
    shutil.rmtree(scratch)
