"""Plans what to write to each target, before any target is opened."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from osbuild.flash.target import FlashTarget
from osbuild.formats import gpt
from osbuild.formats.bmap import Bmap, Range
from osbuild.formats.gpt_resize import resize_table
from osbuild.formats.image_source import ImageSource, short_image
from osbuild.image.block_map import MIB
from osbuild.shared.errors import Error, UsageError

HEAD = MIB  # bytes with MBR, partition table and, on some boards, a boot loader; a disk does not boot without them
PART = 64 * MIB  # bytes that have one checksum if there is no block map
# These texts are a format: a later version must recognise the disks of an interrupted write.
MAGIC = b"edge-osbuild: an image was not written to its end here, so this does not boot.\n"
ADVICE = "Run the same command again: it continues where it stopped.\n"
FORMER_ADVICE = "Run the same command again: it goes on where it stopped.\n"  # on disks of earlier versions


@dataclass(frozen=True)
class WritePlan:
    """The image to write: its block map, None if its size is unknown; its beginning; its partition table if it has one.

    `identity` distinguishes it from other images.
    """

    source: ImageSource
    bmap: Bmap | None
    head: bytes
    table: gpt.Table | None
    identity: str

    @property
    def size(self) -> int | None:
        """Bytes of the image, None if unknown."""
        return self.bmap.size if self.bmap else None

    @property
    def marker(self) -> bytes:
        """The bytes at the beginning of a disk until the rest of the image is complete."""
        return self.known_markers()[0]

    def known_markers(self) -> tuple[bytes, ...]:
        """Return the marker, and those that earlier versions have written for the same image."""
        texts = [MAGIC + f"image {self.identity}\n{advice}".encode() for advice in (ADVICE, FORMER_ADVICE)]
        return tuple(text.ljust(len(self.head), b"\0") for text in texts)

    def parts(self) -> Iterator[Range]:
        """Yield the parts of the image to read, in order; endlessly if its size is unknown."""
        offset = 0
        while self.bmap is None:
            yield Range(offset, PART)
            offset += PART
        for extent in self.bmap.ranges:
            step = extent.size if extent.digest else PART
            for start in range(extent.offset, extent.end, step):
                yield Range(start, min(step, extent.end - start), extent.digest)


@dataclass(frozen=True)
class TargetOrder:
    """What to write to one target: its own `head`, and `changes` to the image, 512 bytes each by offset."""

    target: FlashTarget
    size: int
    node: str | None
    head: bytes
    changes: Mapping[int, bytes] = field(repr=False)

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Yield the changes, with adjacent ones joined."""
        start, data = 0, b""
        for offset in sorted(self.changes):
            if data and offset != start + len(data):
                yield start, data
                data = b""
            start = start if data else offset
            data += self.changes[offset]
        if data:
            yield start, data


def bmap_mismatch(plan: WritePlan, part: Range) -> Error:
    """Return the error for an image and a block map of different builds."""
    return Error(
        f"the image does not match its block map: bytes {part.offset} to {part.end} differ",
        where=str(plan.source.path),
        hint="copy both from the same build again, or write the whole image: --no-bmap",
    )


def make_plan(source: ImageSource, bmap: Bmap | None) -> WritePlan:
    """Read the beginning of an image. Raises `Error` if it is damaged, not a disk image, or does not match the map."""
    with source.reading() as reader:
        buffer = bytearray(HEAD)
        count = reader.fill(memoryview(buffer))
    if source.size is not None and count < min(HEAD, source.size):
        raise short_image(source, min(HEAD, source.size))
    head = bytes(buffer[:count]).ljust(-(-count // 512) * 512, b"\0")
    where = str(source.path)
    if bmap is not None:  # unmapped bytes are undefined: clear them, so that every target gets the same ones
        mapped = bytearray(len(head))
        for extent in [extent for extent in bmap.ranges if extent.offset < len(head)]:
            mapped[extent.offset : extent.end] = head[extent.offset : extent.end]
        head = bytes(mapped[: len(head)])
    table = gpt.read_table_beginning(head, where)
    if table is None and head[510:512] != b"\x55\xaa":
        hint = "name the disk.img or disk.img.zst of a build, or the build folder"
        raise Error("this is not a disk image: it has no partition table", where=where, hint=hint)
    size = bmap.size if bmap else None
    if table is not None and size is not None and size < table.size:
        raise Error(
            f"the image is truncated: it has {size} bytes, and its partition table describes {table.size}",
            where=where,
            hint="copy it again",
        )
    plan = WritePlan(source, bmap, head, table, hashlib.sha256(f"{size} ".encode() + head).hexdigest()[:32])
    first = bmap.ranges[0] if bmap and bmap.ranges else None
    if bmap and first and first.digest and first.size <= PART:
        # Detects the block map of another build before a target is changed: the first range includes the partition
        # table, whose UUIDs differ.
        digest = hashlib.new(bmap.algorithm)
        with source.reading() as reader:
            reader.skip_to(first.offset)
            view = memoryview(bytearray(first.size))
            digest.update(view[: reader.fill(view)])
        if digest.hexdigest() != first.digest:
            raise bmap_mismatch(plan, first)
    return plan


def make_order(plan: WritePlan, target: FlashTarget, node: str | None, seed: Mapping[int, bytes]) -> TargetOrder:
    """Plan how `target` differs from the image: its seed, and the position of its backup table. Raises `Error`."""
    sector = target.device.sector if target.device else 512
    size = (target.size or plan.size or 0) // sector * sector
    if target.size is None and target.device is None:
        if plan.size is None:
            hint = "pass --size, or unpack the image first"
            raise UsageError("the size of this compressed image is unknown", where="--size", hint=hint)
        size = -(-plan.size // sector) * sector
    where = str(target.path)
    if plan.table is not None and target.device is not None and plan.table.sector != sector:
        raise Error(
            f"the image is for disks with sectors of {plan.table.sector} bytes, and this disk has {sector}",
            where=where,
            hint="use a disk with the same sector size, because firmware would not find the partitions",
        )
    head, changes = plan.head, dict(seed)
    if plan.table is not None and (resized := resize_table(head, plan.table, size)):
        head = resized.head
        changes |= {
            resized.offset + start: resized.backup[start : start + 512] for start in range(0, len(resized.backup), 512)
        }
    changed_head = bytearray(head)
    for offset in [offset for offset in changes if offset < len(head)]:
        data = changes.pop(offset)
        changed_head[offset : offset + len(data)] = data
    return TargetOrder(target, size, node, bytes(changed_head), changes)
