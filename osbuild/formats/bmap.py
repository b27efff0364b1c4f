"""Block maps: which blocks of an image have to be written, and the checksum of each range of them.

The format is that of bmaptool(1), version 2.0; its versions 1.2 (without checksums), 1.3 (SHA-1) and 1.4 are read too.
Other blocks hold nothing that anyone reads, so what a card had there before may stay.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from osbuild.shared.errors import Error
from osbuild.shared.files import read_start

BLOCK = 4096
MOST = 2**24  # bytes of a block map; one of ours has some kB
ALGORITHMS = {"sha1": 40, "sha256": 64, "sha512": 128}  # and the length of each in hex
VERSIONS = ("1.2", "1.3", "1.4", "2.0")


@dataclass(frozen=True)
class Range:
    """Bytes of an image that have to be written; `digest` is theirs in hex, empty where a map has none."""

    offset: int
    size: int
    digest: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Bmap:
    """The map of an image of `size` bytes. Ranges are in order, apart from each other, and made of whole blocks."""

    size: int
    ranges: tuple[Range, ...]
    algorithm: str = "sha256"
    block: int = BLOCK

    @property
    def mapped(self) -> int:
        """Bytes to be written."""
        return sum(extent.size for extent in self.ranges)

    def to_xml(self) -> str:
        """The file's text, version 2.0, with the checksum of itself."""
        blocks = -(-self.size // self.block)
        lines = [
            '<?xml version="1.0" ?>',
            "<!-- Blocks of the image that have to be written (bmaptool(1)); the others may keep what a card had. -->",
            '<bmap version="2.0">',
            f"    <ImageSize> {self.size} </ImageSize>",
            f"    <BlockSize> {self.block} </BlockSize>",
            f"    <BlocksCount> {blocks} </BlocksCount>",
            f"    <MappedBlocksCount> {sum(-(-extent.size // self.block) for extent in self.ranges)} "
            f"</MappedBlocksCount>",
            f"    <ChecksumType> {self.algorithm} </ChecksumType>",
            f"    <BmapFileChecksum> {'0' * ALGORITHMS[self.algorithm]} </BmapFileChecksum>",
            "    <BlockMap>",
        ]
        for extent in self.ranges:
            first, last = extent.offset // self.block, -(-extent.end // self.block) - 1
            span = f"{first}" if first == last else f"{first}-{last}"
            lines.append(f'        <Range chksum="{extent.digest}"> {span} </Range>')
        text = "\n".join([*lines, "    </BlockMap>", "</bmap>", ""])
        own = hashlib.new(self.algorithm, text.encode()).hexdigest()
        return text.replace("0" * ALGORITHMS[self.algorithm], own, 1)


def read_bmap(path: Path) -> Bmap:
    """Read and check a block map. Raises `Error` if it is none, is damaged, or contradicts itself."""
    where = str(path)
    try:
        data = read_start(path, MOST + 1)
    except OSError as error:
        hint = "check its mode, or leave it out: --no-bmap"
        raise Error(f"cannot read the block map: {error.strerror}", where=where, hint=hint) from error
    return parse_bmap(data, where)


def parse_bmap(data: bytes, where: str) -> Bmap:
    """The map in `data`. Raises `Error` like `read_bmap`."""
    hint = "get it again, together with its image"
    # The format has no document type; refusing one keeps entities out, which could make a small file large.
    if len(data) > MOST or b"<!DOCTYPE" in data:
        raise Error("this is not a block map", where=where, hint=hint)
    try:
        root = ElementTree.fromstring(data)
        bmap = _found(root, data, where)
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise Error(f"this is not a block map: {error}", where=where, hint=hint) from error
    return bmap


def _found(root: ElementTree.Element, data: bytes, where: str) -> Bmap:
    version = root.get("version", "")
    if root.tag != "bmap":
        raise ValueError(f"it is a <{root.tag}>")
    if version not in VERSIONS:
        hint = f"make it with a bmaptool that writes one of {', '.join(VERSIONS)}"
        raise Error(f"a block map of version {version}", where=where, hint=hint)

    def text(name: str) -> str:
        return (root.findtext(name) or "").strip()

    size, block = int(text("ImageSize")), int(text("BlockSize"))
    if size <= 0 or block <= 0 or block % 512:
        raise ValueError(f"an image of {size} bytes in blocks of {block}")
    sums, attribute, own = text("ChecksumType") or "sha256", "chksum", text("BmapFileChecksum")
    if version == "1.3":
        sums, attribute, own = "sha1", "sha1", text("BmapFileSHA1")
    if sums not in ALGORITHMS:
        raise ValueError(f"checksums of type {sums}")
    if version != "1.2":
        _check_itself(data, sums, own, where)
    ranges: list[Range] = []
    for element in root.iterfind("BlockMap/Range"):
        first, _, last = (element.text or "").strip().partition("-")
        offset, end = int(first) * block, min((int(last or first) + 1) * block, size)
        digest = "" if version == "1.2" else element.attrib[attribute].lower()
        if version != "1.2" and not re.fullmatch(rf"[0-9a-f]{{{ALGORITHMS[sums]}}}", digest):
            raise ValueError(f"`{digest}` is not the checksum of a range")
        if offset < (ranges[-1].end if ranges else 0) or offset >= end or (int(last or first)) * block >= size:
            raise ValueError(f"range {element.text} is out of order or beyond the image's end")
        ranges.append(Range(offset, end - offset, digest))
    mapped = sum(-(-extent.size // block) for extent in ranges)
    if text("MappedBlocksCount") and int(text("MappedBlocksCount")) != mapped:
        raise ValueError(f"{text('MappedBlocksCount')} mapped blocks are promised and {mapped} are there")
    return Bmap(size, tuple(ranges), sums, block)


def _check_itself(data: bytes, sums: str, own: str, where: str) -> None:
    """The checksum of the file is made with zeros in its own place."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{ALGORITHMS[sums]}}}", own):
        raise ValueError("it has no checksum of itself")
    if hashlib.new(sums, data.replace(own.encode(), b"0" * len(own), 1)).hexdigest() != own.lower():
        raise Error(
            "the block map is damaged: its checksum is wrong", where=where, hint="get it again, or leave it out"
        )


def join_ranges(ranges: Sequence[Range], size: int, block: int = BLOCK) -> tuple[Range, ...]:
    """`ranges`, which may overlap, widened to whole blocks, put in order and joined where they touch."""
    made: list[Range] = []
    for each in sorted(ranges, key=lambda each: each.offset):
        start = each.offset // block * block
        end = min(-(-each.end // block) * block, size)
        if made and start <= made[-1].end:
            last = made.pop()
            start, end = last.offset, max(last.end, end)
        made.append(Range(start, end - start))
    return tuple(made)
