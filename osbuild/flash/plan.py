"""What is to be written where, known before any target is opened."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from osbuild.flash.source import ImageSource, short_image
from osbuild.flash.target import FlashTarget
from osbuild.formats import gpt
from osbuild.formats.bmap import Bmap, Range
from osbuild.formats.gpt_resize import resize_table
from osbuild.image.block_map import MIB
from osbuild.shared.errors import Error, UsageError

HEAD = MIB  # bytes: the MBR, the table and, on some boards, a boot loader; nothing boots without them
PART = 64 * MIB  # bytes that get a checksum of their own where no block map has one
MAGIC = b"edge-osbuild: an image was not written to its end here, so this does not boot.\n"


@dataclass(frozen=True)
class WritePlan:
    """The image: its map (None where its size is only known at its end), beginning, and partition table, if it has one.

    `identity` tells it from other images.
    """

    source: ImageSource
    bmap: Bmap | None
    head: bytes
    table: gpt.Table | None
    identity: str

    @property
    def size(self) -> int | None:
        """Bytes of the image."""
        return self.bmap.size if self.bmap else None

    @property
    def marker(self) -> bytes:
        """What is on a disk instead of its beginning until everything else is there."""
        text = MAGIC + f"image {self.identity}\nRun the same command again: it goes on where it stopped.\n".encode()
        return text.ljust(len(self.head), b"\0")

    def parts(self) -> Iterator[Range]:
        """What is read of the image, in its order; without a known size there is no end to it."""
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
    """One target: `head` is its own beginning; `changes` is what else is its own, by offset, 512 bytes each."""

    target: FlashTarget
    size: int
    node: str | None
    head: bytes
    changes: Mapping[int, bytes] = field(repr=False)

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Changes that touch, joined."""
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
    """The image and its block map are not of the same build."""
    return Error(
        f"the image is not the one that its block map is of: bytes {part.offset} to {part.end} differ",
        where=str(plan.source.path),
        hint="get both again from the same build, or write without the map: --no-bmap",
    )


def make_plan(source: ImageSource, bmap: Bmap | None) -> WritePlan:
    """Look at the beginning of an image. Raises `Error` if it is damaged, not its map's, or no disk image at all."""
    with source.reading() as reader:
        buffer = bytearray(HEAD)
        count = reader.fill(memoryview(buffer))
    if source.size is not None and count < min(HEAD, source.size):
        raise short_image(source, min(HEAD, source.size))
    head = bytes(buffer[:count]).ljust(-(-count // 512) * 512, b"\0")
    where = str(source.path)
    if bmap is not None:  # what is not mapped may be anything, and a card should be the same each time
        inside = [extent for extent in bmap.ranges if extent.offset < len(head)]
        kept = bytearray(len(head))
        for extent in inside:
            kept[extent.offset : extent.end] = head[extent.offset : extent.end]
        head = bytes(kept[: len(head)])
    table = gpt.read_table_beginning(head, where)
    if table is None and head[510:512] != b"\x55\xaa":
        hint = "name the disk.img or disk.img.zst that `edge-osbuild build` has made, or its folder"
        raise Error("this is not a disk image: it has no partition table", where=where, hint=hint)
    size = bmap.size if bmap else None
    if table is not None and size is not None and size < table.size:
        raise Error(f"truncated: {size} bytes, but its table speaks of {table.size}", where=where, hint="copy it again")
    made = WritePlan(source, bmap, head, table, hashlib.sha256(f"{size} ".encode() + head).hexdigest()[:32])
    first = bmap.ranges[0] if bmap and bmap.ranges else None
    if bmap and first and first.digest and first.size <= PART:
        # Another build's map shows here, before a card is touched: the first range has the table, whose UUIDs differ.
        digest = hashlib.new(bmap.algorithm)
        with source.reading() as reader:
            reader.skip_to(first.offset)
            view = memoryview(bytearray(first.size))
            digest.update(view[: reader.fill(view)])
        if digest.hexdigest() != first.digest:
            raise bmap_mismatch(made, first)
    return made


def make_order(plan: WritePlan, target: FlashTarget, node: str | None, seed: Mapping[int, bytes]) -> TargetOrder:
    """What differs on `target` from the image: its seed, and where its partition table ends. Raises `Error`."""
    sector = target.device.sector if target.device else 512
    size = (target.size or plan.size or 0) // sector * sector
    if target.size is None and target.device is None:
        if plan.size is None:
            hint = "give --size, or unpack the image first"
            raise UsageError("how large the image is can't be told before all of it is read", where="--size", hint=hint)
        size = -(-plan.size // sector) * sector
    where = str(target.path)
    if plan.table is not None and target.device is not None and plan.table.sector != sector:
        raise Error(
            f"the image is made for sectors of {plan.table.sector} bytes, and this has {sector}",
            where=where,
            hint="use a disk with the same: no firmware finds the partitions otherwise",
        )
    head, changes = plan.head, dict(seed)
    if plan.table is not None and (grown := resize_table(head, plan.table, size)):
        head = grown.head
        changes |= {
            grown.offset + place: grown.backup[place : place + 512] for place in range(0, len(grown.backup), 512)
        }
    inside = bytearray(head)
    for offset in [offset for offset in changes if offset < len(head)]:
        data = changes.pop(offset)
        inside[offset : offset + len(data)] = data
    return TargetOrder(target, size, node, bytes(inside), changes)
