"""The partition table reader, against tables made by systemd-repart and tables made here."""

import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.formats import gpt
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error
from tests.support.disks import unpack_disk

DISK = UUID("a87b5a0e-2f5b-4bb1-9f0c-6f9f6a3ad2b1")
COUNT, STEP, SECTORS = 128, 128, 256


def entry(kind: UUID, number: int, first: int, last: int, name: str) -> bytes:
    return struct.pack(
        "<16s16sQQQ72s", kind.bytes_le, UUID(int=number).bytes_le, first, last, 0, name.encode("utf-16-le")
    )


def header(lba: int, other: int, start: int, crc: int, sectors: int, change: dict[str, int]) -> bytes:
    count, step = change.get("count", COUNT), change.get("step", STEP)
    own, entries_lba = change.get("own", lba), change.get("entries_lba", start)
    begin = struct.pack("<8sII", b"EFI PART", change.get("revision", 0x10000), 92)
    end = struct.pack("<IQQQQ16sQIII", 0, own, other, 34, sectors - 34, DISK.bytes_le, entries_lba, count, step, crc)
    return begin + struct.pack("<I", zlib.crc32(begin + bytes(4) + end)) + end


def image(*entries: bytes, sector: int = 512, sectors: int = SECTORS, **change: int) -> bytearray:
    """A disk with both copies of a table."""
    table = b"".join(entries).ljust(COUNT * STEP, b"\0")
    data = bytearray(sectors * sector)
    data[446 + 4] = 0xEE
    data[510:512] = b"\x55\xaa"
    last, crc = sectors - 1, zlib.crc32(table)
    blocks = -(-len(table) // sector)
    for own, other, start in ((1, last, 2), (last, 1, last - blocks)):
        data[own * sector : own * sector + 92] = header(own, other, start, crc, sectors, change)
        data[start * sector : start * sector + len(table)] = table
    return data


ROOT = gpt.ROOT[Architecture.x86_64]
GOOD = (entry(gpt.ESP, 1, 40, 79, "esp"), entry(ROOT, 2, 80, 99, "root-ä"), bytes(128), entry(gpt.VAR, 4, 100, 100, ""))


def write(folder: Path, data: bytes | bytearray) -> Path:
    path = folder / "disk.img"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_table_is_read(sector: int, tmp_path: Path) -> None:
    table = gpt.read_table(write(tmp_path, image(*GOOD, sector=sector)))
    assert (table.uuid, table.sector, table.size) == (DISK, sector, SECTORS * sector)
    assert [(p.number, p.name, p.kind) for p in table.partitions] == [
        (1, "esp", "EFI system"),
        (2, "root-ä", "root x86_64"),
        (4, "", "/var"),
    ]
    root = table.partitions[1]
    assert (root.first_lba, root.last_lba, root.offset, root.size) == (80, 99, 80 * sector, 20 * sector)


def test_a_disk_made_by_systemd_repart_is_read(tmp_path: Path) -> None:
    table = gpt.read_table(unpack_disk("disk.img", tmp_path))
    # as `sfdisk --dump` shows it
    assert [(p.name, p.first_lba, p.size // 512) for p in table.partitions] == [
        ("esp", 2048, 69632),
        ("root-a", 71680, 4096),
        ("verity-a", 75776, 4096),
        ("root-b", 79872, 4096),
        ("verity-b", 83968, 4096),
        ("data", 88064, 8192),
    ]
    assert [p.type for p in table.partitions] == [
        gpt.ESP,
        gpt.ROOT[Architecture.x86_64],
        gpt.ROOT_VERITY[Architecture.x86_64],
        gpt.ROOT[Architecture.x86_64],
        gpt.ROOT_VERITY[Architecture.x86_64],
        gpt.LINUX_GENERIC,
    ]


def damaged(place: int, data: bytes = b"\xff") -> bytearray:
    broken = image(*GOOD)
    broken[place : place + len(data)] = data
    return broken


BACKUP = (SECTORS - 1) * 512


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no GUID partition table"),
        (b"\0" * 4096, "no GUID partition table"),
        (damaged(510, b"\0"), "protective MBR is missing"),
        (damaged(450, b"\x83"), "protective MBR is missing"),
        (damaged(512 + 72), "the checksum of the table is wrong"),
        (damaged(1024), "the checksum of the entries of the table is wrong"),
        (damaged(BACKUP, bytes(512)), "the backup table is missing"),
        (damaged(BACKUP + 72), "the checksum of the backup table is wrong"),
        (damaged(BACKUP - 32 * 512), "the checksum of the entries of the backup table is wrong"),
        (image(*GOOD)[:-512], "truncated: it has 130560 bytes, and its partition table describes 131072"),
        (image(*GOOD)[:1000], "the table is missing from sector 1"),
        (image(*GOOD, step=100), "128 entries of 100 bytes"),
        (image(*GOOD, step=128, count=2**20), "1048576 entries of 128 bytes"),
        (image(*GOOD, own=7), "not one of revision 1.0 at sector 1"),
        (image(*GOOD, revision=0x20000), "not one of revision 1.0"),
        (image(*GOOD, entries_lba=2**64 - 1), "the checksum of the entries"),
        (image(*GOOD, entries_lba=40), "overlap something else"),
        (image(entry(ROOT, 1, 40, 79, "a"), entry(ROOT, 2, 79, 99, "b")), r"partition 2 \(b\) overlaps partition 1"),
        (image(entry(ROOT, 1, 40, 2**40, "a")), r"partition 1 \(a\) is not within the disk"),
        (image(entry(ROOT, 1, 80, 79, "a")), "is not within the disk"),
        (image(entry(ROOT, 1, 40, 79, "a"), entry(ROOT, 1, 80, 99, "b")), "the same UUID"),
    ],
)
def test_a_bad_table_is_one_clear_error(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(Error, match=message) as caught:
        gpt.read_table(write(tmp_path, data))
    assert caught.value.where == str(tmp_path / "disk.img")


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="No such file"):
        gpt.read_table(tmp_path / "absent")


quickly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quickly
@given(place=st.integers(0, SECTORS * 512 - 1), flip=st.integers(1, 255))
def test_any_changed_byte_is_detected_or_harmless(place: int, flip: int, tmp_path: Path) -> None:
    good = gpt.read_table(write(tmp_path, image(*GOOD)))
    data = image(*GOOD)
    data[place] ^= flip
    try:
        assert gpt.read_table(write(tmp_path, data)) == good
    except Error:
        # the boot sector's two checked fields, both headers, both arrays
        backup = SECTORS * 512 - 33 * 512
        assert place in (450, 510, 511) or 512 <= place < 604 or 1024 <= place < 1024 + 16384 or place >= backup


@quickly
@given(length=st.integers(0, SECTORS * 512 - 1))
def test_any_truncation_is_detected(length: int, tmp_path: Path) -> None:
    with pytest.raises(Error):
        gpt.read_table(write(tmp_path, image(*GOOD)[:length]))


@quickly
@given(
    entries=st.lists(
        st.builds(
            entry,
            st.sampled_from([gpt.ESP, ROOT]),
            st.integers(0, 9),
            st.integers(0, 2**64 - 1) | st.integers(30, 230),
            st.integers(0, 2**64 - 1) | st.integers(30, 230),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=18),
        ),
        max_size=4,
    ),
    change=st.fixed_dictionaries(
        {},
        optional={name: st.integers(0, 2**32 - 1) for name in ("count", "step", "own", "entries_lba", "revision")},
    ),
)
def test_no_table_with_right_checksums_causes_a_traceback(
    entries: list[bytes], change: dict[str, int], tmp_path: Path
) -> None:
    try:
        table = gpt.read_table(write(tmp_path, image(*entries, **change)))
    except Error:
        return
    for before, after in zip(table.partitions, table.partitions[1:], strict=False):
        assert before.last_lba != after.first_lba
    assert all(34 <= p.first_lba <= p.last_lba <= SECTORS - 34 for p in table.partitions)


def test_every_architecture_has_every_type() -> None:
    for kind in (gpt.ROOT, gpt.ROOT_VERITY, gpt.ROOT_VERITY_SIG):
        assert set(kind) == set(Architecture)
    assert len(gpt.TYPES) == 8 + 9
