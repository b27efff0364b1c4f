"""Block maps, compressed files, and partition tables that move: what flashing reads and writes."""

import bz2
import gzip
import hashlib
import lzma
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from osbuild.flash import source
from osbuild.formats import bmap, gpt, mbr, superblocks
from osbuild.formats.bmap import Bmap, Range, join_ranges
from osbuild.formats.fat import Fat
from osbuild.formats.gpt_resize import resize_table
from osbuild.image import block_map
from osbuild.shared.errors import Error
from tests.support.disks import unpack_disk

MIB = 2**20
DATA = bytes(range(256)) * 16  # one block


def xml(version: str, sums: str, algorithm: str = "sha256") -> bytes:
    """A map of blocks 0-1 and 3 of an image of 4 blocks and 5 bytes, laid out as bmaptool(1) does."""
    one, two = (hashlib.new(algorithm, DATA * count).hexdigest() for count in (2, 1))
    attribute = {"1.2": "", "1.3": f'sha1="{one}"|sha1="{two}"'}.get(version, f'chksum="{one}"|chksum="{two}"')
    first, _, second = attribute.partition("|")
    return f"""<?xml version="1.0" ?>
<bmap version="{version}">
    <ImageSize> 16389 </ImageSize>
    <BlockSize> 4096 </BlockSize>
    <BlocksCount> 5 </BlocksCount>
    <MappedBlocksCount> 3     </MappedBlocksCount>
{sums}    <BlockMap>
        <Range {first}> 0-1 </Range>
        <Range {second}> 3 </Range>
    </BlockMap>
</bmap>
""".encode()


def signed(version: str, element: str, algorithm: str) -> bytes:
    zeros = "0" * len(hashlib.new(algorithm).hexdigest())
    kind = "" if version == "1.3" else f"    <ChecksumType> {algorithm} </ChecksumType>\n"
    text = xml(version, f"{kind}    <{element}> {zeros} </{element}>\n", algorithm)
    return text.replace(zeros.encode(), hashlib.new(algorithm, text).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        (xml("1.2", ""), ""),
        (signed("1.3", "BmapFileSHA1", "sha1"), "sha1"),
        (signed("1.4", "BmapFileChecksum", "sha256"), "sha256"),
        (signed("2.0", "BmapFileChecksum", "sha256"), "sha256"),
        (signed("2.0", "BmapFileChecksum", "sha512"), "sha512"),
    ],
    ids=["1.2", "1.3", "1.4", "2.0", "2.0 sha512"],
)
def test_the_maps_of_every_version_are_read(text: bytes, algorithm: str) -> None:
    block_map = bmap.parse_bmap(text, "map")
    sums = [hashlib.new(algorithm, DATA * count).hexdigest() for count in (2, 1)] if algorithm else ["", ""]
    assert block_map.size == 16389 and block_map.mapped == 12288
    assert block_map.ranges == (Range(0, 8192, sums[0]), Range(12288, 4096, sums[1]))


GOOD = signed("2.0", "BmapFileChecksum", "sha256")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace(b"0-1", b"0-2"), "its checksum is wrong"),
        (GOOD.replace(b"16389", b"16388"), "its checksum is wrong"),
        (xml("2.0", "    <ChecksumType> sha256 </ChecksumType>\n"), "BmapFileChecksum is not a checksum"),
        (xml("2.0", "    <ChecksumType> crc </ChecksumType>\n"), "checksums of type crc"),
        (xml("1.2", "").replace(b"0-1", b"3-4"), "out of order"),
        (xml("1.2", "").replace(b" 3 <", b" 9 <"), "beyond the image's end"),
        (xml("1.2", "").replace(b"3     <", b"4     <"), "MappedBlocksCount is 4, but the ranges contain 3 blocks"),
        (xml("3.0", ""), "version 3.0"),
        (b"<bmap", "not a block map"),
        (b'<?xml version="1.0"?><html/>', "<html>"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><bmap version="1.2"/>', "not a block map"),
        (b"\xff\xfe\x00", "not a block map"),
    ],
)
def test_a_wrong_map_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        bmap.parse_bmap(text, "map")
    assert caught.value.hint


@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 50_000)), min_size=1))
def test_joined_ranges_cover_the_same_blocks_once(pairs: list[tuple[int, int]]) -> None:
    size = 300_000
    ranges = [Range(offset, length) for offset, length in pairs]
    expected = {block for each in ranges for block in range(each.offset // 4096, -(-each.end // 4096))}
    joined = join_ranges(ranges, size)
    assert {block for each in joined for block in range(each.offset // 4096, -(-each.end // 4096))} == expected
    assert all(one.end < two.offset for one, two in pairwise(joined))
    text = Bmap(size, tuple(Range(each.offset, each.size, "ab" * 32) for each in joined)).to_xml()
    assert [(each.offset, each.size) for each in bmap.parse_bmap(text.encode(), "map").ranges] == [
        (each.offset, each.size) for each in joined
    ]


def test_what_a_file_system_reads_is_mapped_even_where_the_image_has_a_hole(tmp_path: Path) -> None:
    """Written over a card that is full of something else, the mapped ranges alone make every file system readable."""
    image = unpack_disk("disk.img", tmp_path)
    card = tmp_path / "card"
    card.write_bytes(b"\xa5" * image.stat().st_size)
    bmap_of_image = block_map.make_bmap(image)
    holes = sum(each.size for each in bmap_of_image.ranges) - image.stat().st_blocks * 512
    assert holes > 0, "the image must have holes inside of file systems, or this shows nothing"
    with image.open("rb") as old, card.open("r+b") as new:
        for each in bmap_of_image.ranges:
            old.seek(each.offset)
            new.seek(each.offset)
            new.write(data := old.read(each.size))
            assert hashlib.sha256(data).hexdigest() == each.digest
    assert gpt.read_table(card) == gpt.read_table(image)
    with image.open("rb") as old, card.open("rb") as new:
        for partition in gpt.read_table(image).partitions:
            sizes = [f.size for r in (superblocks.read_erofs, superblocks.read_verity, superblocks.read_ext4)
                     if (f := r(old, partition.offset))]  # fmt: skip
            if partition.type == gpt.ESP:
                fats = [Fat(file, partition.offset, "esp") for file in (old, new)]
                files = [list(fat.walk()) for fat in fats]
                assert files[0] == files[1] != []
                assert list(fats[0].used()) == list(fats[1].used())
                assert [fats[0].read(each) for each in files[0]] == [fats[1].read(each) for each in files[1]]
            elif sizes:
                old.seek(partition.offset)
                new.seek(partition.offset)
                assert old.read(sizes[0]) == new.read(sizes[0]), partition.name


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
    "gz": gzip.compress,
    "bz2": bz2.compress,
}
CONTENTS = b"".join(hashlib.sha256(bytes([n % 251, n // 251])).digest() for n in range(20000)) + bytes(300_000)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("streams", [1, 2])
def test_compressed_images_are_read_and_cut_ones_refused(kind: str, streams: int, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind}"
    packed = PACKED[kind](CONTENTS) * streams
    path.write_bytes(packed)
    source_image = source.find_image(path)
    assert source_image.packed == kind
    known = kind == "zst" or (kind == "xz" and streams == 1)  # an index of .xz is that of one stream
    assert source_image.size == (len(CONTENTS) * streams if known else None)
    view = bytearray(len(CONTENTS) * streams + 10)
    with source_image.reading() as reader:
        assert reader.fill(memoryview(view)) == len(CONTENTS) * streams
    assert view[:-10] == CONTENTS * streams
    with source_image.reading() as reader:
        reader.skip_to(639_000)
        assert reader.fill(memoryview(part := bytearray(2000))) == 2000
        assert part == (CONTENTS * streams)[639_000:641_000]
    for length in (len(packed) - 1, len(packed) // 2 + 9, len(packed) - len(packed) // streams // 3):
        path.write_bytes(packed[:length])
        with pytest.raises(Error) as caught, source.find_image(path).reading() as reader:
            reader.fill(memoryview(view))
        assert caught.value.hint and str(path) in str(caught.value)


def test_a_zstd_file_cut_between_two_blocks_is_refused(tmp_path: Path) -> None:
    """The decoder itself takes it for whole."""
    packed = PACKED["zst"](CONTENTS)
    frame = 4 + 1 + {0: 1, 1: 2, 2: 4, 3: 8}[packed[4] >> 6] + (0 if packed[4] & 0x20 else 1)
    size = int.from_bytes(packed[frame : frame + 3], "little") >> 3
    path = tmp_path / "image.zst"
    path.write_bytes(packed[: frame + 3 + size])
    with zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True) as stream:
        assert len(stream.read(-1)) == 2**17
    with pytest.raises(Error, match="truncated"):
        source.find_image(path)


@pytest.mark.parametrize("more", [512, 16 * 512, 33 * 512, 34 * 512, 10 * MIB + 512])
def test_a_table_is_moved_to_the_end_of_a_larger_disk(more: int, tmp_path: Path) -> None:
    image = unpack_disk("disk.img", tmp_path)
    before = gpt.read_table(image)
    with image.open("rb") as file:
        head = file.read(MIB)
    size = before.size + more
    table = gpt.read_table_beginning(head, "image")
    assert table == before
    grown = resize_table(head, before, size)
    assert grown is not None and grown.offset + len(grown.backup) == size
    with image.open("r+b") as file:
        file.truncate(size)
        file.write(grown.head)
        file.seek(grown.offset)
        file.write(grown.backup)
    after = gpt.read_table(image)
    assert (after.size, after.partitions, after.uuid) == (size, before.partitions, before.uuid)
    assert struct.unpack_from("<I", grown.head, 446 + 12)[0] == size // 512 - 1
    assert resize_table(grown.head, after, size) is None
    with pytest.raises(Error, match="smaller than the disk that its partition table"):
        resize_table(grown.head, after, before.size)


def test_a_hybrid_mbr_keeps_its_bytes(tmp_path: Path) -> None:
    lone = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, 99) + bytes(48)
    hybrid = lone[:16] + struct.pack("<B3sB3sII", 0x80, b"\1\1\1", 0x0C, b"\2\2\2", 2048, 4096) + bytes(32)
    assert mbr.resize_protective_entry(hybrid, 10**6) == hybrid
    assert struct.unpack_from("<I", mbr.resize_protective_entry(lone, 10**6), 12)[0] == 10**6
    assert struct.unpack_from("<I", mbr.resize_protective_entry(lone, 10**12), 12)[0] == 0xFFFFFFFF


def test_the_map_beside_an_image_is_found_and_must_be_its_own(tmp_path: Path) -> None:
    image = unpack_disk("disk.img", tmp_path)
    packed = tmp_path / "disk.img.zst"
    packed.write_bytes(PACKED["zst"](image.read_bytes()))
    (tmp_path / "disk.bmap").write_text(block_map.make_bmap(image).to_xml())
    plans = []
    for path in (image, packed, tmp_path):
        source_image = source.find_image(path)
        plans.append(source.choose_bmap(source_image, source.find_bmap(source_image, None)))
    assert plans[0] == plans[1] == plans[2] == block_map.make_bmap(image)
    (tmp_path / "disk.img.bmap").write_bytes(GOOD)
    with pytest.raises(Error, match="block map of another image: 16389 bytes"):
        source.choose_bmap(source.find_image(packed), source.find_bmap(source.find_image(packed), None))
    unmapped = source.choose_bmap(source.find_image(packed), None)
    assert unmapped is not None and unmapped.mapped == image.stat().st_size
