"""Inspects a disk image: partitions, slots, boot images, and the build manifest beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from osbuild.formats import gpt, superblocks
from osbuild.formats.image_source import identify_image
from osbuild.host.scratch import temporary_folder
from osbuild.inputs.build_manifest import DISK, MANIFEST, Manifest, find_disk
from osbuild.inspection.boot_images import BootImageInfo, next_slot, read_boot_images, read_boot_state
from osbuild.shared.errors import Error

Content = superblocks.Erofs | superblocks.Verity | superblocks.Ext4


@dataclass(frozen=True)
class InspectedPartition:
    """One partition. `holds` is erofs, verity, ext4, vfat, boot state, empty or unknown."""

    partition: gpt.Partition
    holds: str
    content: Content | None


@dataclass(frozen=True)
class InspectedSlot:
    """A root partition with its hash tree. `size` and `used` are bytes of both partitions."""

    name: str
    partitions: tuple[int, ...]
    filled: bool
    size: int
    used: int
    root_hash: str | None
    entries: tuple[str, ...]

    @property
    def free(self) -> int:
        """The free share of the slot in percent."""
        return 100 * (self.size - self.used) // self.size


@dataclass(frozen=True)
class Inspection:
    """The results for one image. `size` and `allocated`, the space that it takes on disk, are in bytes.

    `next_slot` is the slot that the boot loader starts next.
    """

    image: Path
    size: int
    allocated: int
    table: gpt.Table
    parts: tuple[InspectedPartition, ...]
    slots: tuple[InspectedSlot, ...]
    entries: tuple[BootImageInfo, ...]
    next_slot: str | None
    manifest: Manifest | None
    problems: tuple[str, ...]


def find_image(path: Path) -> Path:
    """Return the image in a build folder, or `path` itself if it is an image. Raises `Error` if there is none."""
    if not path.is_dir():
        if not path.exists():
            raise Error(
                "this file or folder does not exist",
                where=str(path),
                hint="`edge-osbuild build` makes build/…/disk.img",
            )
        return path
    if disk := find_disk(path):
        return disk
    raise Error("this folder contains no disk.img", where=str(path), hint="run `edge-osbuild build` first")


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Return the image, decompressed to a temporary file if necessary. Raises `Error`."""
    source = identify_image(path) if path.is_file() else None
    if source is None or source.packed is None:
        yield path
        return
    with temporary_folder("inspect") as folder:
        with source.reading() as reader, (folder / DISK).open("wb") as file:
            try:
                reader.copy_to(file)
            except OSError as error:
                hint = "make room there, or set TMPDIR to another folder"
                raise Error(f"cannot unpack {path.name}: {error.strerror}", where=str(folder), hint=hint) from error
        yield folder / DISK


def inspect_image(path: Path) -> Inspection:
    """Inspect the image at `path`, or in the build folder `path`. Raises `Error` without a valid partition table."""
    image_path = find_image(path)
    try:
        with decompressed(image_path) as image, image.open("rb") as file:
            table = gpt.read_table_from(file, str(image_path))
            parts = tuple(_part(file, partition) for partition in table.partitions)
            problems: list[str] = []
            entries: list[BootImageInfo] = []
            state = read_boot_state(file, table.partitions)
            for part in parts:
                if part.partition.type == gpt.ESP:
                    try:
                        entries += read_boot_images(file, part.partition, state)
                    except Error as error:
                        problems.append(str(error))
            size, allocated = table.size, image_path.stat().st_blocks * 512
    except OSError as error:
        hint = "check its permissions and disk, or copy it again"
        raise Error(f"cannot read the image: {error.strerror or error}", where=str(image_path), hint=hint) from error
    slots = tuple(_slots(parts, entries))
    manifest = _manifest(image_path, problems)
    problems += _problems(parts, slots, entries)
    first_choice = next_slot(entries, state)
    return Inspection(
        image_path, size, allocated, table, parts, slots, tuple(entries), first_choice, manifest, tuple(problems)
    )


def _part(file: BinaryIO, partition: gpt.Partition) -> InspectedPartition:
    for name, reader in (
        ("erofs", superblocks.read_erofs),
        ("verity", superblocks.read_verity),
        ("ext4", superblocks.read_ext4),
    ):
        content: Content | None = reader(file, partition.offset)
        if content is not None:
            return InspectedPartition(partition, name, content)
    file.seek(partition.offset)
    begin = file.read(min(partition.size, 2**20))
    if begin == bytes(len(begin)):
        return InspectedPartition(partition, "empty", None)
    if partition.type == gpt.UBOOT_ENV:
        return InspectedPartition(partition, "boot state", None)
    return InspectedPartition(
        partition, "vfat" if begin[82:87] == b"FAT32" or begin[54:57] == b"FAT" else "unknown", None
    )


def _slots(parts: tuple[InspectedPartition, ...], entries: list[BootImageInfo]) -> Iterator[InspectedSlot]:
    """Yield the slots A, B, … in the order of their root partitions. The n-th root has the n-th verity partition."""
    roots = [part for part in parts if part.partition.type in gpt.ROOT.values()]
    hash_trees = [part for part in parts if part.partition.type in gpt.ROOT_VERITY.values()]
    for index, root in enumerate(roots):
        tree = hash_trees[index] if index < len(hash_trees) else None
        verity = tree.content if tree and isinstance(tree.content, superblocks.Verity) else None
        used = root.content.size if isinstance(root.content, superblocks.Erofs | superblocks.Ext4) else 0
        yield InspectedSlot(
            name=chr(ord("A") + index % 26),
            partitions=(root.partition.number, *([tree.partition.number] if tree else [])),
            filled=root.holds != "empty",
            size=root.partition.size + (tree.partition.size if tree else 0),
            used=used + (verity.size if verity else 0),
            root_hash=verity.root_hash if verity else None,
            entries=tuple(e.path for e in entries if verity and e.root_hash and e.root_hash == verity.root_hash),
        )


def _problems(
    parts: tuple[InspectedPartition, ...], slots: tuple[InspectedSlot, ...], entries: list[BootImageInfo]
) -> Iterator[str]:
    for part in parts:
        if isinstance(part.content, superblocks.Erofs) and part.content.intact is False:
            yield f"partition {part.partition.number} ({part.partition.name}): the erofs superblock is damaged"
        if part.content is not None and part.content.size > part.partition.size:
            yield f"partition {part.partition.number} ({part.partition.name}): its contents exceed the partition"
    for slot in slots:
        if slot.filled and slot.root_hash is None:
            yield f"slot {slot.name} has no hash tree"
        elif slot.filled and not slot.entries:
            yield f"slot {slot.name}: no boot image has its root hash {slot.root_hash}"
    slot_hashes = {slot.root_hash for slot in slots}
    for entry in entries:
        if entry.problem:
            yield f"{entry.path}: {entry.problem}"
        elif entry.root_hash and entry.root_hash not in slot_hashes:
            yield f"{entry.path}: no slot has its root hash {entry.root_hash}"


def _manifest(image: Path, problems: list[str]) -> Manifest | None:
    try:
        return Manifest.read(image.parent)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{MANIFEST}: {error}")
        return None
