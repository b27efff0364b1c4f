"""Images made by Debian's own tools are read as these tools describe them; damaged ones cause no traceback."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.cli.inspect import command
from osbuild.formats import gpt, pe, superblocks
from osbuild.formats.fat import Fat
from osbuild.inspection.image import inspect_image
from osbuild.shared.errors import Error
from tests.support.disks import unpack_disk
from tests.support.examples import examples
from tests.support.mounted import mount_tmpfs

ROOT_HASH = "ce8c51fe0e9d7b30c31e328e15bed063452eddd5e7e1ebd7a78d9a691812eaea"  # as systemd-repart told it
quickly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_disk("disk.img", tmp_path_factory.mktemp("disk"))


@pytest.fixture
def copy(disk: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "--sparse=always", disk, tmp_path], check=True)
    return tmp_path / "disk.img"


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def place(path: Path, name: str) -> int:
    return next(part.offset for part in gpt.read_table(path).partitions if part.name == name)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(command, [str(word) for word in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_every_partition_is_recognized(disk: Path) -> None:
    report = inspect_image(disk)
    assert [part.holds for part in report.parts] == ["vfat", "erofs", "verity", "empty", "empty", "ext4"]
    assert report.size == disk.stat().st_size
    assert 0 < report.allocated < report.size
    assert report.problems == ()


def test_an_erofs_superblock_is_read_as_dump_erofs_does(disk: Path) -> None:
    content = inspect_image(disk).parts[1].content
    assert content == superblocks.Erofs(
        label="",
        uuid=UUID("01e7202b-8ddd-4a8a-b00f-b69ec14f0a91"),
        size=2 * 4096,
        block_size=4096,
        inodes=7,
        build_time=1767225600,
        compression=("lz4",),
        intact=True,
    )


def test_a_verity_superblock_is_read_as_veritysetup_does(disk: Path) -> None:
    content = inspect_image(disk).parts[2].content
    assert content == superblocks.Verity(
        uuid=UUID("0badaaba-a370-4c22-ac74-c9faa88bf06c"),
        algorithm="sha256",
        salt="d6e927fde183ab769f159a5934224f3b88184be82d7ec21c37079c153b4ebe63",
        data_block_size=4096,
        hash_block_size=4096,
        data_blocks=2,
        size=8192,
        root_hash=ROOT_HASH,
    )


def test_an_ext4_superblock_is_read(disk: Path) -> None:
    content = inspect_image(disk).parts[5].content
    assert content == superblocks.Ext4("data", UUID("8c9c5eb3-059e-4cbd-9896-007acf14f2e4"), 2**22, 4096)


def test_slots_are_filled_or_empty_and_know_their_boot_entry(disk: Path) -> None:
    first, second = inspect_image(disk).slots
    assert (first.name, first.filled, first.root_hash) == ("A", True, ROOT_HASH)
    assert (first.partitions, first.used, first.size) == ((2, 3), 16384, 4 * 2**20)
    assert first.entries == ("EFI/Linux/edge-a+3.efi",)
    assert (second.name, second.filled, second.root_hash, second.entries) == ("B", False, None, ())


def test_a_boot_entry_is_read_from_the_esp(disk: Path) -> None:
    (entry,) = inspect_image(disk).entries
    assert (entry.path, entry.tries_left, entry.tries_done) == ("EFI/Linux/edge-a+3.efi", 3, 0)
    assert entry.command_line == f"root=/dev/mapper/root roothash={ROOT_HASH} rauc.slot=A ro"
    assert (entry.root_hash, entry.kernel, entry.machine) == (ROOT_HASH, "6.12.0-test-amd64", "x86_64")
    assert entry.os_release["PRETTY_NAME"] == "Tiny 1.0.0"
    assert entry.sections[".linux"] == 100_000


def test_a_boot_entry_of_another_root_is_a_problem(copy: Path) -> None:
    data = copy.read_bytes()
    change(copy, data.index(ROOT_HASH.encode()), b"00")
    assert [problem.partition(":")[0] for problem in inspect_image(copy).problems] == [
        "slot A",
        "EFI/Linux/edge-a+3.efi",
    ]


def test_a_changed_hash_tree_no_longer_has_the_root_hash(copy: Path) -> None:
    change(copy, place(copy, "verity-a") + 4096, b"\xff")
    assert inspect_image(copy).slots[0].root_hash != ROOT_HASH
    assert len(inspect_image(copy).problems) == 2


def test_a_changed_erofs_superblock_is_a_problem(copy: Path) -> None:
    change(copy, place(copy, "root-a") + 1024 + 0x40, b"label")
    assert inspect_image(copy).problems == ("partition 2 (root-a): the erofs superblock is damaged",)


def test_people_see_what_matters(disk: Path) -> None:
    text = run(disk)
    for line in (
        "  2  root-a    root x86_64          2 MiB  erofs, 8 KiB, lz4, 7 inodes",
        "  B  empty   4 MiB",
        "  EFI/Linux/edge-a+3.efi: 104 KiB, x86_64, 6.12.0-test-amd64, Tiny 1.0.0, 1.0.0, 3 tries left",
    ):
        assert line in text.splitlines()


def test_json_has_everything(disk: Path) -> None:
    document = json.loads(run(disk, "--json"))
    assert set(document) == {
        "image", "size", "allocated", "table", "partitions", "slots", "entries", "next_slot", "manifest",
        "problems",
    }  # fmt: skip
    assert document["partitions"][1]["content"]["compression"] == ["lz4"]
    assert document["slots"][0]["free"] == 99
    assert document["next_slot"] == "a"
    assert document["entries"][0]["os_release"]["VERSION_ID"] == "13"


MANIFEST: dict[str, Any] = {
    "name": "edge-server",
    "version": "1.0.0",
    "architecture": "x86_64",
    "components": [{"name": "kubernetes", "version": "v1.36.3", "size": 176 * 2**20}],
    "packages": [{"name": f"package-{n}", "version": f"1.{n}", "installed": n * 2**20} for n in range(20)],
    "largest": [{"path": "/usr/lib/modules", "size": 2**26}],
    "files": {"disk.img": {"sha256": "ab" * 32, "size": 2**30}},
}


def test_the_manifest_beside_the_image_is_shown(copy: Path) -> None:
    (copy.parent / "manifest.json").write_text(json.dumps(MANIFEST))
    text = run(copy.parent).splitlines()
    assert text[0].endswith("on disk · edge-server 1.0.0 x86_64")
    assert "  kubernetes  v1.36.3  176 MiB" in text
    packages = text.index("Packages, 10 of 20 by installed size")
    assert text[packages + 1] == "  package-19  1.19  19 MiB"
    assert text[packages + 10] == "  package-10  1.10  10 MiB"
    assert f"  disk.img  1024 MiB  sha256 {'ab' * 32}" in text
    assert json.loads(run(copy, "--json"))["manifest"] == MANIFEST


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "size"]), inner),
    max_leaves=5,
)


def test_names_in_an_image_neither_control_the_terminal_nor_forge_lines(copy: Path) -> None:
    name = "a\x1b[2J\r\n  signed by me\u202e\x9b"
    lists = {key: [{"name": name, "version": name, "size": 1}] for key in ("components", "packages", "largest")}
    manifest = {"name": name, "version": name, "board": name, "files": {name: {"size": 1, "sha256": name}}, **lists}
    (copy.parent / "manifest.json").write_text(json.dumps(manifest))
    shown = run(copy)
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    assert r"a\x1b[2J\r\n  signed by me\u202e\x9b" in shown


@settings(quickly, max_examples=examples(40))
@given(manifest=st.fixed_dictionaries({}, optional={key: json_values for key in MANIFEST}))
def test_any_manifest_is_tolerated(manifest: dict[str, Any], disk: Path) -> None:
    path = disk.parent / "manifest.json"
    path.write_text(json.dumps(manifest))
    try:
        assert "Partitions" in run(disk)
    finally:
        path.unlink()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0"])
def test_a_damaged_manifest_is_a_problem(text: str, copy: Path) -> None:
    (copy.parent / "manifest.json").write_text(text)
    assert inspect_image(copy).problems[0].startswith("manifest.json: ")


def test_what_cannot_be_inspected_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="does not exist"):
        inspect_image(tmp_path / "absent")
    with pytest.raises(Error, match=r"contains no disk\.img"):
        inspect_image(tmp_path)
    for data, message in ((b"", "is empty"), (bytes(512), "no GUID partition table"), (b"QFI\xfb", "a qcow2 disk")):
        (tmp_path / "disk.img").write_bytes(data)
        with pytest.raises(Error, match=message):
            inspect_image(tmp_path)


COMPRESSION: dict[str, Callable[[bytes], bytes]] = {
    "zst": zstandard.ZstdCompressor().compress, "bz2": bz2.compress,
    "xz": partial(lzma.compress, preset=0), "gz": partial(gzip.compress, compresslevel=1),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPRESSION)
def test_a_compressed_image_is_inspected_and_errors_name_the_compressed_file(
    copy: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(copy.parent))
    packed = copy.with_name(f"x.img.{kind}")
    packed.write_bytes(COMPRESSION[kind](copy.read_bytes()))
    assert inspect_image(packed).slots[0].root_hash == ROOT_HASH
    assert str(packed) in run(packed).splitlines()[0]
    whole = packed.read_bytes()
    for data in (COMPRESSION[kind](b"no table" * 4000), whole[: len(whole) // 2]):
        packed.write_bytes(data)
        with pytest.raises(Error) as caught:
            inspect_image(packed)
        assert caught.value.where == str(packed)
        assert "disk.img" not in caught.value.message
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted(["disk.img", packed.name])


def test_a_full_temporary_folder_is_named_and_left_empty(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = copy.with_name("x.img.gz")
    packed.write_bytes(gzip.compress(b"x" * 2**21))
    with mount_tmpfs(copy.parent / "small", 2**20) as folder:
        monkeypatch.setenv("TMPDIR", str(folder))
        with pytest.raises(Error, match=r"cannot unpack x\.img\.gz: No space") as caught:
            inspect_image(packed)
        assert str(folder) in str(caught.value.where) and list(folder.iterdir()) == []


# FAT, by what mtools wrote


def sequence(count: int, size: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, count + 1))[:size]


@pytest.mark.parametrize("bits", [12, 16])
def test_files_in_pieces_and_long_names_are_read_from_fat(bits: int, tmp_path: Path) -> None:
    with unpack_disk(f"fat{bits}.img", tmp_path).open("rb") as image:
        fat = Fat(image, 0, "image")
        files = {str(file.path): file for file in fat.walk()}
        assert list(files) == [
            "a folder with a long name",
            "a folder with a long name/Zweite Prüfung.txt",
            "THIRD.BIN",
            "nothing",
        ]
        assert fat.read(files["THIRD.BIN"]) == sequence(500_000, 400_000)
        assert fat.read(files["THIRD.BIN"], 19_900, 5000) == sequence(500_000, 400_000)[19_900:24_900]
        assert fat.read(files["a folder with a long name/Zweite Prüfung.txt"]) == sequence(90_000, 30_000)
        assert fat.read(files["nothing"]) == b""


@settings(quickly, max_examples=examples(60))
@given(changes=st.dictionaries(st.integers(0, 40_000), st.integers(0, 255), min_size=1, max_size=20))
def test_a_damaged_fat_causes_no_traceback(changes: dict[int, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fat12.img"
    data = bytearray((path if path.exists() else unpack_disk("fat12.img", folder)).read_bytes())
    for offset, value in changes.items():
        data[offset] = value
    with io.BytesIO(data) as image:
        try:
            fat = Fat(image, 0, "image")
            for file in itertools.islice(fat.walk(), 1000):
                assert len(fat.read(file, 0, 10_000)) <= 10_000
        except Error as error:
            assert error.where == "image"


def patched(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    changed = bytearray(data)
    for place, form, value in changes:
        struct.pack_into(f"<{form}", changed, place, value)
    return bytes(changed)


SECTORS16, FAT16, SECTORS32, FAT32 = (19, "H"), (22, "H"), (32, "I"), (36, "I")  # the document's section 3
HUGE: dict[str, tuple[tuple[int, str, int], ...]] = {
    "sectors": ((*SECTORS16, 0), (*SECTORS32, 2**32 - 1), (13, "B", 1)),
    "sectors and table": ((*SECTORS16, 0), (*SECTORS32, 2**24), (*FAT16, 0), (*FAT32, 2**32 - 1), (13, "B", 1)),
    "clusters": ((13, "B", 128), (11, "H", 4096)),
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_that_a_fat_only_claims_cost_neither_time_nor_memory(name: str, tmp_path: Path) -> None:
    """A boot partition is copied before a seed is put on it, cluster by cluster."""
    data = patched(unpack_disk("fat16.img", tmp_path).read_bytes(), *HUGE[name])
    begin = time.monotonic()
    with io.BytesIO(data) as image, suppress(Error):
        fat = Fat(image, 0, "image")
        assert sum(size for _, size in fat.used()) < 2**30
        for file in itertools.islice(fat.walk(), 100):
            assert len(fat.read(file)) <= len(data)
            fat.extents(file)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("name", ["fat12.img", "fat16.img"])
def test_a_chain_that_leads_back_to_itself_is_damage(name: str, tmp_path: Path) -> None:
    data = bytearray(unpack_disk(name, tmp_path).read_bytes())
    with io.BytesIO(data) as image:
        whole = Fat(image, 0, "image")
        files = {str(file.path): file for file in whole.walk()}
        first, table = files["THIRD.BIN"].cluster, whole._fat
    place = bytes(data).index(table)
    if name == "fat16.img":
        struct.pack_into("<H", data, place + 2 * (first + 1), first)
    else:
        at = place + (first + 1) * 3 // 2
        pair = int.from_bytes(data[at : at + 2], "little")
        kept = pair & 0xF if (first + 1) & 1 else pair & 0xF000
        data[at : at + 2] = (kept | (first << 4 if (first + 1) & 1 else first)).to_bytes(2, "little")
    with io.BytesIO(data) as image, pytest.raises(Error, match="is damaged"):
        Fat(image, 0, "image").read(files["THIRD.BIN"])


@pytest.mark.parametrize("levels", [100, 1500])
def test_folders_of_fat_that_are_nested_too_deeply_are_damage(levels: int) -> None:
    """Each cluster has one folder, whose contents are the next cluster."""
    count = 2**16
    boot = struct.pack("<11sHBHBHHBHHHII", b"", 512, 1, 1, 1, 0, 0, 0xF8, 0, 0, 0, 0, count + 600)
    boot += struct.pack("<IHHI", 600, 0, 0, 2)
    table = struct.pack(f"<{count}I", *[0x0FFFFFFF] * count).ljust(600 * 512, b"\0")
    folders = [
        struct.pack("<11sBB7xH4xHI", b"FOLDER     ", 0x10, 0, 0, cluster + 1, 0).ljust(512, b"\0")
        for cluster in range(2, levels + 2)
    ]
    data = boot.ljust(510, b"\0") + b"\x55\xaa" + table + b"".join(folders).ljust(512 * count, b"\0")
    with io.BytesIO(data) as image:
        files = Fat(image, 0, "image").walk()
        if levels == 100:
            assert len(list(files)) == levels
        else:
            with pytest.raises(Error, match="is damaged: more than 128 levels of folders"):
                list(files)


def test_a_folder_has_no_more_entries_than_fat_allows(tmp_path: Path) -> None:
    """One whose chain is all of the file system, with a size of 512 bytes for each cluster."""
    count = 2**16
    boot = struct.pack("<11sHBHBHHBHHHII", b"", 512, 1, 1, 1, 0, 0, 0xF8, 0, 0, 0, 0, count + 600)
    boot += struct.pack("<IHHI", 600, 0, 0, 2)
    table = struct.pack(f"<{count}I", *range(1, count + 1)).ljust(600 * 512, b"\0")
    entry = struct.pack("<11sBB7xH4xHI", b"FILE       ", 0x20, 0, 0, 3, 1)
    data = boot.ljust(510, b"\0") + b"\x55\xaa" + table + entry * (16 * count)
    with io.BytesIO(data) as image:
        assert len(list(itertools.islice(Fat(image, 0, "image").walk(), 2**17))) == 2**16


@given(begin=st.sampled_from([b"", b"MZ".ljust(60, b"\0") + b"\x40\0\0\0PE\0\0"]), tail=st.binary(max_size=300))
def test_any_bytes_are_a_pe_image_or_an_error(begin: bytes, tail: bytes) -> None:
    data = begin + tail
    try:
        image = pe.parse_pe(lambda offset, size: data[offset : offset + size], "file")
    except Error as error:
        assert "PE image" in error.message
    else:
        assert all(section.size >= 0 for section in image.sections)


@given(
    kind=st.sampled_from([b"\xe2\xe1\xf5\xe0", b"verity\0\0\1\0\0\0", b""]),
    place=st.sampled_from([0, 1024]),
    data=st.binary(max_size=400),
)
def test_any_superblock_is_read_or_refused(kind: bytes, place: int, data: bytes) -> None:
    raw = (bytes(place) + kind + data).ljust(12_288, b"\0")
    for reader in (superblocks.read_erofs, superblocks.read_verity, superblocks.read_ext4):
        superblock = reader(io.BytesIO(raw), 0)
        assert superblock is None or superblock.size >= 0


def test_crc32c_has_the_check_value_of_rfc_3720() -> None:
    assert superblocks.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
