"""What is in an image: partitions, slots, boot entries, and what the manifest beside it says."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from osbuild.formats import gpt, superblocks
from osbuild.host.run import run_command
from osbuild.host.scratch import temporary_folder
from osbuild.inputs.build_manifest import MANIFEST, Manifest
from osbuild.inspection.boot_images import BootImageInfo, next_slot, read_boot_images, read_boot_state
from osbuild.shared.errors import Error

Content = superblocks.Erofs | superblocks.Verity | superblocks.Ext4


@dataclass(frozen=True)
class InspectedPartition:
    """One partition and what it holds: erofs, verity, ext4, vfat, slots' state, empty or unknown."""

    partition: gpt.Partition
    holds: str
    content: Content | None


@dataclass(frozen=True)
class InspectedSlot:
    """A root partition with its hash tree; `used` is of `size`, both in bytes and with the tree."""

    name: str
    partitions: tuple[int, ...]
    filled: bool
    size: int
    used: int
    root_hash: str | None
    entries: tuple[str, ...]

    @property
    def free(self) -> int:
        """Percent of the slot that an update may grow into."""
        return 100 * (self.size - self.used) // self.size


@dataclass(frozen=True)
class Inspection:
    """Everything found out about one image; `size` in bytes, `allocated` what it takes on disk.

    `next_slot` is the one that the boot loader takes next.
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
    """The image that is meant by a build folder or an image's own path. Raises `Error` if there is none."""
    if not path.is_dir():
        if not path.exists():
            raise Error("no such file or folder", where=str(path), hint="`edge-osbuild build` makes build/…/disk.img")
        return path
    for name in ("disk.img", "disk.img.zst"):
        if (path / name).is_file():
            return path / name
    raise Error("no disk.img in this folder", where=str(path), hint="run `edge-osbuild build` first")


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """The image itself, decompressed for the time of the block if need be."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"\x28\xb5\x2f\xfd":  # Zstandard frame (RFC 8878, section 3.1.1)
        yield path
        return
    if shutil.which("zstd") is None:
        raise Error(
            "the image is compressed, and the program zstd is not there to read it",
            where=str(path),
            hint="inspect disk.img instead, or: apt-get install zstd",
        )
    with temporary_folder("inspect") as folder:
        image = folder / "disk.img"
        run_command(["zstd", "--quiet", "--decompress", "--sparse", path, "-o", image], hint="is the file whole?")
        yield image


def inspect_image(path: Path) -> Inspection:
    """Read the image at `path`, or in that build folder. Raises `Error` if it has no valid partition table."""
    found = find_image(path)
    try:
        with decompressed(found) as image, image.open("rb") as file:
            table = gpt.read_table(image)
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
            size, allocated = table.size, found.stat().st_blocks * 512
    except OSError as error:
        hint = "check its mode and disk, or copy it again"
        raise Error(f"cannot read the image: {error.strerror or error}", where=str(found), hint=hint) from error
    slots = tuple(_slots(parts, entries))
    manifest = _manifest(found, problems)
    problems += _problems(parts, slots, entries)
    choice = next_slot(entries, state)
    return Inspection(found, size, allocated, table, parts, slots, tuple(entries), choice, manifest, tuple(problems))


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
    if not any(begin):
        return InspectedPartition(partition, "empty", None)
    if partition.type == gpt.UBOOT_ENV:
        return InspectedPartition(partition, "slots' state", None)
    return InspectedPartition(
        partition, "vfat" if begin[82:87] == b"FAT32" or begin[54:57] == b"FAT" else "unknown", None
    )


def _slots(parts: tuple[InspectedPartition, ...], entries: list[BootImageInfo]) -> Iterator[InspectedSlot]:
    """Root partitions in their order are A, B, …; each takes the verity partition of the same place in the order."""
    roots = [part for part in parts if part.partition.type in gpt.ROOT.values()]
    trees = [part for part in parts if part.partition.type in gpt.ROOT_VERITY.values()]
    for index, root in enumerate(roots):
        tree = trees[index] if index < len(trees) else None
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
            yield f"partition {part.partition.number} ({part.partition.name}): its contents are larger than it is"
    for slot in slots:
        if slot.filled and slot.root_hash is None:
            yield f"slot {slot.name} has no hash tree"
        elif slot.filled and not slot.entries:
            yield f"slot {slot.name}: no boot entry carries its root hash {slot.root_hash}"
    known = {slot.root_hash for slot in slots}
    for entry in entries:
        if entry.problem:
            yield f"{entry.path}: {entry.problem}"
        elif entry.root_hash and entry.root_hash not in known:
            yield f"{entry.path}: its root hash {entry.root_hash} is that of no slot"


def _manifest(image: Path, problems: list[str]) -> Manifest | None:
    try:
        return Manifest.read(image.parent)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{MANIFEST}: {error}")
        return None
