"""Boot entries in an image: a boot file for each slot, and how many tries each has left."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

from osbuild.formats import gpt, pe, uimage
from osbuild.formats.fat import Fat, File
from osbuild.shared import uboot_state, uefi_entries
from osbuild.shared.errors import Error
from osbuild.shared.uboot_state import UBootState

COUNTERS = re.compile(r"\+(\d+)(?:-(\d+))?(?=\.efi$)")  # Boot Loader Specification, "Boot counting"
IMAGE = re.compile(r"edge-([a-z])\.img")


@dataclass(frozen=True)
class BootImageInfo:
    """One slot's boot file on the boot partition; sizes are in bytes, tries None where boots are not counted."""

    path: str
    size: int
    tries_left: int | None = None
    tries_done: int | None = None
    machine: str | None = None
    command_line: str = ""
    root_hash: str | None = None
    kernel: str | None = None
    os_release: dict[str, str] = field(default_factory=dict)
    sections: dict[str, int] = field(default_factory=dict)
    problem: str | None = None


def read_boot_state(file: BinaryIO, partitions: Sequence[gpt.Partition]) -> UBootState | None:
    """The state that U-Boot counts with, None where the disk has no partition for it."""
    for partition in partitions:
        if partition.type == gpt.UBOOT_ENV:
            copies = []
            for offset in uboot_state.COPY_OFFSETS:
                file.seek(partition.offset + offset)
                copies.append(uboot_state.decode_state(file.read(uboot_state.COPY_SIZE)))
            return uboot_state.newest_state(copies)
    return None


def read_boot_images(file: BinaryIO, boot: gpt.Partition, state: UBootState | None) -> Iterator[BootImageInfo]:
    """Every entry on the boot partition: unified kernel images, or U-Boot's, which `state` counts."""
    fat = Fat(file, boot.offset, f"partition {boot.number} ({boot.name})")
    for found in fat.walk():
        parent = str(found.path.parent).lower()
        if found.folder:
            continue
        if parent == "efi/linux" and found.path.suffix.lower() == ".efi":
            yield read_uki(fat, found)
        elif state and parent == "." and (match := IMAGE.fullmatch(found.path.name.lower())):
            yield read_uimage(fat, found, state.counter(match[1]))


def next_slot(entries: Sequence[BootImageInfo], state: UBootState | None) -> str | None:
    """The slot that the boot loader of this image takes next; None where it finds nothing to boot."""
    names = [PurePosixPath(entry.path).name for entry in entries if entry.size]
    if state:
        return state.next_slot({match[1] for name in names if (match := IMAGE.fullmatch(name.lower()))})
    return uefi_entries.choose_slot(found for name in names if (found := uefi_entries.parse_entry_name(name)))


def read_uimage(fat: Fat, file: File, counter: uboot_state.BootCounter) -> BootImageInfo:
    """The entry in an image of U-Boot's, as `osbuild.boot.uboot` makes them."""
    path, left = str(file.path), counter.left
    done = None if left is None else counter.done
    try:
        image = uimage.parse_multi(fat.read(file), path)
        if len(image.parts) < 4:
            raise Error("it lacks a kernel, an initrd, their arguments or a device tree")
        lines = image.parts[2].decode("utf-8", "replace").splitlines()
    except Error as error:
        return BootImageInfo(path, file.size, left, done, problem=error.message)
    texts = {name: value for name, _, value in (line.partition("=") for line in lines)}
    words = texts.get("bootargs", "")
    hashes = re.findall(r"(?:^|\s)roothash=([0-9a-fA-F]+)", words)
    return BootImageInfo(
        path=path,
        size=file.size,
        tries_left=left,
        tries_done=done,
        machine=str(image.architecture) if image.architecture else None,
        command_line=words,
        root_hash=hashes[-1].lower() if hashes else None,
        kernel=texts.get("kernel"),
        os_release={name: texts[name] for name in ("PRETTY_NAME", "IMAGE_VERSION") if name in texts},
        sections={".linux": len(image.parts[0]), ".initrd": len(image.parts[1])},
    )


def read_uki(fat: Fat, file: File) -> BootImageInfo:
    """The entry in a unified kernel image, with its counters in its name."""
    path = str(file.path)
    counted = COUNTERS.search(path)
    left = int(counted[1]) if counted else None
    done = int(counted[2] or 0) if counted else None

    def read(offset: int, size: int) -> bytes:
        return fat.read(file, offset, size)

    def text(name: str) -> str:
        return (image.contents(name, read) or b"").decode("utf-8", "replace").strip()

    try:
        image = pe.parse_pe(read, path)
        words = text(".cmdline")
        hashes = re.findall(r"(?:^|\s)roothash=([0-9a-fA-F]+)", words)
        pairs = (line.partition("=") for line in text(".osrel").splitlines() if "=" in line)
        return BootImageInfo(
            path=path,
            size=file.size,
            tries_left=left,
            tries_done=done,
            machine=image.machine,
            command_line=words,
            root_hash=hashes[-1].lower() if hashes else None,
            kernel=text(".uname") or None,
            os_release={name: value.strip("\"'") for name, _, value in pairs},
            sections={section.name: section.size for section in image.sections},
        )
    except Error as error:
        return BootImageInfo(path, file.size, left, done, problem=error.message)
