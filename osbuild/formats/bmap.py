"""Block maps: the ranges of an image that have to be written, with their checksums.

The format is version 2.0 of bmaptool(1). Versions 1.2 (without checksums), 1.3 (SHA-1) and 1.4 are read too. Nothing
reads the other blocks of an image, so an SD card may keep their old contents.
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
MAX_BYTES = 2**24  # of a block map; our own have some kB
ALGORITHMS = {"sha1": 40, "sha256": 64, "sha512": 128}  # and the length of each in hex
VERSIONS = ("1.2", "1.3", "1.4", "2.0")


@dataclass(frozen=True)
class Range:
    """Bytes of an image that have to be written. `digest` is in hex, empty if the map has no checksums."""

    offset: int
    size: int
    digest: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Bmap:
    """The map of an image of `size` bytes. Ranges are sorted, do not overlap, and consist of whole blocks."""

    size: int
    ranges: tuple[Range, ...]
    algorithm: str = "sha256"
    block: int = BLOCK

    @property
    def mapped(self) -> int:
        """Bytes to be written."""
        return sum(extent.size for extent in self.ranges)

    def to_xml(self) -> str:
        """Return the file's text, version 2.0, including the file's own checksum."""
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
        digest = hashlib.new(self.algorithm, text.encode()).hexdigest()
        return text.replace("0" * ALGORITHMS[self.algorithm], digest, 1)


def read_bmap(path: Path) -> Bmap:
    """Read and check a block map. Raises `Error` if it is not a block map, is damaged, or contradicts itself."""
    where = str(path)
    try:
        data = read_start(path, MAX_BYTES + 1)
    except OSError as error:
        hint = "check its permissions, or write the whole image: --no-bmap"
        raise Error(f"cannot read the block map: {error.strerror}", where=where, hint=hint) from error
    return parse_bmap(data, where)


def parse_bmap(data: bytes, where: str) -> Bmap:
    """Parse the block map in `data`. Raises `Error` like `read_bmap`."""
    hint = "download it again, together with its image"
    # The format has no document type. Refusing one excludes entities, which could expand a small file without limit.
    if len(data) > MAX_BYTES or b"<!DOCTYPE" in data:
        raise Error("this is not a block map", where=where, hint=hint)
    try:
        root = ElementTree.fromstring(data)
        bmap = _parse_root(root, data, where)
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise Error(f"this is not a block map: {error}", where=where, hint=hint) from error
    return bmap


def _parse_root(root: ElementTree.Element, data: bytes, where: str) -> Bmap:
    version = root.get("version", "")
    if root.tag != "bmap":
        raise ValueError(f"its root element is <{root.tag}>")
    if version not in VERSIONS:
        hint = f"create it with a bmaptool that writes version {', '.join(VERSIONS)}"
        raise Error(f"block maps of version {version} are not supported", where=where, hint=hint)

    def text(name: str) -> str:
        return (root.findtext(name) or "").strip()

    size, block = int(text("ImageSize")), int(text("BlockSize"))
    if size <= 0 or block <= 0 or block % 512:
        raise ValueError(f"invalid image size {size} or block size {block}")
    sums, attribute, file_digest = text("ChecksumType") or "sha256", "chksum", text("BmapFileChecksum")
    if version == "1.3":
        sums, attribute, file_digest = "sha1", "sha1", text("BmapFileSHA1")
    if sums not in ALGORITHMS:
        raise ValueError(f"checksums of type {sums} are not supported")
    if version != "1.2":
        _check_file_checksum(data, sums, file_digest, where)
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
        raise ValueError(f"MappedBlocksCount is {text('MappedBlocksCount')}, but the ranges contain {mapped} blocks")
    return Bmap(size, tuple(ranges), sums, block)


def _check_file_checksum(data: bytes, sums: str, file_digest: str, where: str) -> None:
    """Compare the file with its checksum, which is computed with zeros in the checksum's own field."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{ALGORITHMS[sums]}}}", file_digest):
        raise ValueError("its field BmapFileChecksum is not a checksum")
    if (
        hashlib.new(sums, data.replace(file_digest.encode(), b"0" * len(file_digest), 1)).hexdigest()
        != file_digest.lower()
    ):
        raise Error(
            "the block map is damaged: its checksum is wrong",
            where=where,
            hint="download it again, or write the whole image: --no-bmap",
        )


def join_ranges(ranges: Sequence[Range], size: int, block: int = BLOCK) -> tuple[Range, ...]:
    """Return `ranges`, which may overlap, sorted, widened to whole blocks, and joined if they touch."""
    joined: list[Range] = []
    for extent in sorted(ranges, key=lambda extent: extent.offset):
        start = extent.offset // block * block
        end = min(-(-extent.end // block) * block, size)
        if joined and start <= joined[-1].end:
            last = joined.pop()
            start, end = last.offset, max(last.end, end)
        joined.append(Range(start, end - start))
    return tuple(joined)
