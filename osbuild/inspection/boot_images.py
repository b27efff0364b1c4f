"""Reads the boot images on the ESP of a disk image, with the tries of each slot."""

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
    """One slot's boot image on the ESP. Sizes are in bytes; tries are None if boots are not counted."""

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
    """Read the boot state of U-Boot; None if the disk has no partition for it."""
    for partition in partitions:
        if partition.type == gpt.UBOOT_ENV:
            copies = []
            for offset in uboot_state.COPY_OFFSETS:
                file.seek(partition.offset + offset)
                copies.append(uboot_state.decode_state(file.read(uboot_state.COPY_SIZE)))
            return uboot_state.newest_state(copies)
    return None


def read_boot_images(file: BinaryIO, esp: gpt.Partition, state: UBootState | None) -> Iterator[BootImageInfo]:
    """Yield every boot image on the ESP: UKIs, or with a U-Boot `state` U-Boot images. Raises `Error`."""
    fat = Fat(file, esp.offset, f"partition {esp.number} ({esp.name})")
    for entry in fat.walk():
        parent = str(entry.path.parent).lower()
        if entry.folder:
            continue
        if parent == "efi/linux" and entry.path.suffix.lower() == ".efi":
            yield read_uki(fat, entry)
        elif state and parent == "." and (match := IMAGE.fullmatch(entry.path.name.lower())):
            yield read_uimage(fat, entry, state.counter(match[1]))


def next_slot(entries: Sequence[BootImageInfo], state: UBootState | None) -> str | None:
    """Return the slot that the boot loader starts next; None if there is nothing to boot."""
    names = [PurePosixPath(entry.path).name for entry in entries if entry.size]
    if state:
        return state.next_slot({match[1] for name in names if (match := IMAGE.fullmatch(name.lower()))})
    return uefi_entries.choose_slot(entry for name in names if (entry := uefi_entries.parse_entry_name(name)))


def read_uimage(fat: Fat, file: File, counter: uboot_state.BootCounter) -> BootImageInfo:
    """Read a U-Boot image made by `osbuild.boot.uboot`."""
    path, tries_left = str(file.path), counter.left
    tries_done = None if tries_left is None else counter.done
    try:
        image = uimage.parse_multi(fat.read(file), path)
        if len(image.parts) < 4:
            raise Error("the boot image lacks a kernel, an initrd, kernel arguments or a device tree")
        lines = image.parts[2].decode("utf-8", "replace").splitlines()
    except Error as error:
        return BootImageInfo(path, file.size, tries_left, tries_done, problem=error.message)
    texts = {name: value for name, _, value in (line.partition("=") for line in lines)}
    command_line = texts.get("bootargs", "")
    hashes = re.findall(r"(?:^|\s)roothash=([0-9a-fA-F]+)", command_line)
    return BootImageInfo(
        path=path,
        size=file.size,
        tries_left=tries_left,
        tries_done=tries_done,
        machine=str(image.architecture) if image.architecture else None,
        command_line=command_line,
        root_hash=hashes[-1].lower() if hashes else None,
        kernel=texts.get("kernel"),
        os_release={name: texts[name] for name in ("PRETTY_NAME", "IMAGE_VERSION") if name in texts},
        sections={".linux": len(image.parts[0]), ".initrd": len(image.parts[1])},
    )


def read_uki(fat: Fat, file: File) -> BootImageInfo:
    """Read a UKI. Its tries are in its file name."""
    path = str(file.path)
    counted = COUNTERS.search(path)
    tries_left = int(counted[1]) if counted else None
    tries_done = int(counted[2] or 0) if counted else None

    def read(offset: int, size: int) -> bytes:
        return fat.read(file, offset, size)

    def text(name: str) -> str:
        return (image.contents(name, read) or b"").decode("utf-8", "replace").strip()

    try:
        image = pe.parse_pe(read, path)
        command_line = text(".cmdline")
        hashes = re.findall(r"(?:^|\s)roothash=([0-9a-fA-F]+)", command_line)
        pairs = (line.partition("=") for line in text(".osrel").splitlines() if "=" in line)
        return BootImageInfo(
            path=path,
            size=file.size,
            tries_left=tries_left,
            tries_done=tries_done,
            machine=image.machine,
            command_line=command_line,
            root_hash=hashes[-1].lower() if hashes else None,
            kernel=text(".uname") or None,
            os_release={name: value.strip("\"'") for name, _, value in pairs},
            sections={section.name: section.size for section in image.sections},
        )
    except Error as error:
        return BootImageInfo(path, file.size, tries_left, tries_done, problem=error.message)
