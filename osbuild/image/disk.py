"""The disk: a GPT with the boot partition and two slots; the device itself adds the data partition."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from osbuild.boot.flow import BootFlow, BootParts
from osbuild.boot.slot import SlotImage
from osbuild.config.profile import DiskSettings
from osbuild.host.architecture import Architecture
from osbuild.image.verity import derived_uuid
from osbuild.shared.errors import Error

MIB = 2**20
# Names of the Discoverable Partitions Specification, as systemd-repart knows them (repart.d(5)).
REPART_ARCH = {Architecture.x86_64: "x86-64", Architecture.arm64: "arm64", Architecture.armv7: "arm"}


@dataclass(frozen=True)
class SlotSize:
    """Bytes of a slot's two partitions."""

    root: int
    tree: int


def divide_slot(disk: DiskSettings) -> SlotSize:
    """How a slot is divided: the hash tree of N bytes takes N/127, and its superblock a block."""
    tree = (disk.slot // 126 // MIB + 1) * MIB
    return SlotSize(disk.slot - tree, tree)


def check_headroom(disk: DiskSettings, image: SlotImage) -> int:
    """How much of a slot is free, in percent. Raises `Error` where that is less than the profile's headroom."""
    sizes = divide_slot(disk)
    used = image.root.stat().st_size
    free = 100 - 100 * used // sizes.root
    if used > sizes.root * (100 - disk.headroom) // 100:
        need = (used * 100 // (100 - disk.headroom) // MIB // 64 + 1) * 64 + sizes.tree // MIB
        raise Error(
            f"the root takes {used / MIB:.0f} MiB of a slot of {disk.slot // MIB} MiB: {max(free, 0)} % are left for "
            f"updates to grow into, and `disk.headroom` wants {disk.headroom} %",
            hint=f"set `disk.slot: {need} MiB` in the profile, or drop packages; a slot can't grow on a device later",
        )
    return free


def check_boot_partition(disk: DiskSettings, boot: Path, boot_file: Path) -> None:
    """Raise `Error` if the boot partition, filled with the folder `boot`, has no room for slot B and for an update.

    An update writes its boot file beside those of both slots.
    """
    used = sum(path.stat().st_size for path in boot.rglob("*") if path.is_file()) + 2 * boot_file.stat().st_size
    usable = disk.esp * 98 // 100 - MIB  # the rest is for FAT's tables, and for what the clusters of files waste
    if used > usable:
        need = ((used + MIB) * 100 // 98 // MIB // 64 + 1) * 64
        raise Error(
            f"the boot partition of {disk.esp // MIB} MiB has no room for the boot files of both slots and of an "
            f"update, {used / MIB:.0f} MiB",
            hint=f"set `disk.esp: {need} MiB` in the profile; it can't grow on a device later",
        )


def build_disk(
    flow: BootFlow, parts: BootParts, image: SlotImage, boot_file: Path, disk: DiskSettings, output: Path, *,
    identity: str
) -> None:  # fmt: skip
    """Write the sparse disk image `output`: slot A holds `image`, slot B is empty, `boot_file` is to boot slot A."""
    scratch = output.parent / "disk"
    boot = scratch / "boot"
    boot.mkdir(parents=True)
    flow.fill_esp(parts, boot)
    place = boot / flow.boot_image_path("a")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(boot_file, place)
    check_boot_partition(disk, boot, boot_file)
    for path in boot.rglob("*"):  # times are copied
        os.utime(path, (parts.epoch, parts.epoch))

    own = flow.extra_partitions()
    for partition in own:
        (scratch / partition.label).write_bytes(partition.content)
    sizes = divide_slot(disk)
    arch = REPART_ARCH[parts.board.architecture]
    definitions = scratch / "repart.d"
    definitions.mkdir()
    partitions = [
        ("esp", "esp", disk.esp, f"Format=vfat\nCopyFiles={boot}:/\n"),
        *((part.label, part.type, part.size, f"CopyBlocks={scratch / part.label}\n") for part in own),
        ("root-a", f"root-{arch}", sizes.root, f"CopyBlocks={image.root}\n"),
        ("root-a-verity", f"root-{arch}-verity", sizes.tree, f"CopyBlocks={image.tree}\n"),
        ("root-b", f"root-{arch}", sizes.root, ""),
        ("root-b-verity", f"root-{arch}-verity", sizes.tree, ""),
    ]
    for number, (label, kind, size, more) in enumerate(partitions, start=1):
        (definitions / f"{number}0-{label}.conf").write_text(
            f"[Partition]\nType={kind}\nLabel={label}\nUUID={derived_uuid(identity, label)}\n"
            f"SizeMinBytes={size}\nSizeMaxBytes={size}\n{more}"
        )
    total = disk.esp + sum(part.size for part in own) + 2 * disk.slot + disk.data + 2 * MIB
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
