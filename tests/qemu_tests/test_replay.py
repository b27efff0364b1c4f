"""The replay of write logs: logs made here, states compared with what a plain list of writes gives."""

import hashlib
import itertools
import random
import re
import struct
from pathlib import Path, PurePosixPath
from uuid import UUID

import pytest
from support import filesystems
from support.boot_candidates import BootLoaderModel, Candidate, KnownVersion, Listed, compare_names, compare_versions
from support.replay import BLOCK, SECTOR, Disk, consecutive_runs, replay_states
from support.survey import Survey, SurveyPlan, survey
from support.write_log import Flag, WriteLog, Writer, position

from osbuild.formats import gpt
from osbuild.formats.fat import Fat
from osbuild.host.architecture import Architecture
from osbuild.shared import uboot_state
from osbuild.shared.errors import Error
from osbuild.shared.uboot_state import BootCounter, UBootState
from tests.formats.test_gpt import entry, image
from tests.support.builds import make_build, random_blocks
from tests.support.disks import unpack_disk

MIB = 2**20
LAYOUT = {"esp": (1, 3), "root-a": (4, 1), "root-a-verity": (5, 1), "root-b": (6, 1), "root-b-verity": (7, 1)}  # MiB
ENVIRONMENT = (8, 8)
TYPES = {"esp": gpt.ESP, "uboot-env": gpt.UBOOT_ENV}


# A FAT16 file system, as small as there are.


def fat16(files: dict[str, bytes]) -> bytes:
    """A FAT file system in which each file has the clusters after those of the one before (FAT specification 1.03)."""
    table, data = [0xFFF8, 0xFFFF], bytearray()

    def store(body: bytes) -> int:
        first = len(table)
        count = -(-len(body) // SECTOR)
        table.extend([*range(first + 1, first + count), 0xFFFF] if count else [])
        data.extend(body.ljust(count * SECTOR, b"\0"))
        return first if count else 0

    def name(text: str, attributes: int, cluster: int, size: int, number: int) -> bytes:
        short = f"F{number:07}   ".encode()
        check = 0
        for byte in short:
            check = ((check >> 1) + (check << 7) + byte) & 0xFF
        raw = (text + "\0").encode("utf-16-le")
        raw = raw.ljust(-(-len(raw) // 26) * 26, b"\xff")
        parts = [raw[place : place + 26] for place in range(0, len(raw), 26)]
        long = b""
        for order, part in reversed(list(enumerate(parts, 1))):
            mark = order | (0x40 if order == len(parts) else 0)
            long += struct.pack("<B10sBBB12sH4s", mark, part[:10], 0x0F, 0, check, part[10:22], 0, part[22:])
        return long + struct.pack("<11sB8xHHHHI", short, attributes, 0, 0, 0, cluster, size)

    # Folders come first, so that a further file moves nothing.
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    places = {parent: store(bytes(4 * SECTOR)) for parent in sorted(parents - {"."})}
    folders: dict[str, bytes] = dict.fromkeys(parents, b"")
    for number, (path, cluster) in enumerate(places.items()):
        folders[str(PurePosixPath(path).parent)] += name(PurePosixPath(path).name, 0x10, cluster, 0, 100 + number)
    for number, (path, body) in enumerate(files.items()):
        folders[str(PurePosixPath(path).parent)] += name(PurePosixPath(path).name, 0x20, store(body), len(body), number)
    for path, cluster in places.items():
        data[(cluster - 2) * SECTOR : (cluster - 2) * SECTOR + len(folders[path])] = folders[path]
    clusters, per_table = 5000, 20
    boot = struct.pack("<3s8sHBHBHHBHHHII", b"\xeb\x3c\x90", b"test", SECTOR, 1, 1, 2, 64, 0, 0xF8, per_table, 1, 1, 0,
                       clusters + 1 + 2 * per_table + 4)  # fmt: skip
    boot = boot.ljust(510, b"\0") + b"\x55\xaa"
    allocation = struct.pack(f"<{len(table)}H", *table).ljust(per_table * SECTOR, b"\0")
    return boot + 2 * allocation + folders["."].ljust(64 * 32, b"\0") + bytes(data)


def test_the_test_file_system_is_valid_and_reports_a_files_clusters(tmp_path: Path) -> None:
    files = {"EFI/Linux/edge-1-a+3.efi": random_blocks(1, 3), "loader.conf": b"timeout 0\n", "empty": b""}
    (tmp_path / "fat").write_bytes(fat16(files).ljust(5100 * SECTOR, b"\0"))
    with (tmp_path / "fat").open("rb") as file:
        fat = Fat(file, 0, "fat")
        found = {str(entry.path): entry for entry in fat.walk() if not entry.folder}
        assert {path: fat.read(entry) for path, entry in found.items()} == files
        ((offset, size),) = fat.extents(found["EFI/Linux/edge-1-a+3.efi"])
        file.seek(offset)
        assert (file.read(size), fat.extents(found["empty"])) == (random_blocks(1, 3), [])


@pytest.mark.parametrize("name", ["fat12.img", "fat16.img"])
def test_a_file_in_two_pieces_is_where_its_extents_are(name: str, tmp_path: Path) -> None:
    with unpack_disk(name, tmp_path).open("rb") as file:
        fat = Fat(file, 0, name)
        extents_by_file = {entry: fat.extents(entry) for entry in fat.walk() if not entry.folder}
        assert max(len(extents) for extents in extents_by_file.values()) == 2
        for entry, extents in extents_by_file.items():
            data = b""
            for offset, size in extents:
                file.seek(offset)
                data += file.read(size)
            assert data[: entry.size] == fat.read(entry)


# Logs


def log_of(path: Path) -> list[tuple[int, int, Flag, str]]:
    with WriteLog(path) as log:
        return [(each.offset, each.size, each.flags, each.mark) for each in log.entries()]


def test_a_log_tells_what_was_written_to_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Writer(path) as writer:
        writer.write(4096, b"a" * 1024)
        writer.mark("install")
        writer.discard(2**40, 2**30)
        writer.zero(8192, MIB)
        writer.flush()
        writer.write(512, b"b" * 512)
    assert log_of(path) == [
        (4096, 1024, Flag(0), ""), (0, 0, Flag.MARK, "install"), (2**40, 2**30, Flag.DISCARD, ""),
        (8192, MIB, Flag(0), ""), (0, 0, Flag.FLUSH, ""), (512, 512, Flag(0), ""),
    ]  # fmt: skip
    assert position(path) == 6
    with WriteLog(path) as log:
        first, _, discarded, zeroed, _, last = log.entries()
        assert (log.data(first), log.data(last)) == (b"a" * 1024, b"b" * 512)
        assert log.data(zeroed) == bytes(MIB)
        whole, rest = log.epochs()
        assert (whole.flushed, whole.end, len(whole.entries)) == (True, 5, 3)
        assert (rest.flushed, rest.end, rest.entries) == (False, 6, (last,))
        assert [each.entries for each in log.requests()] == [(first,), (discarded,), (zeroed,), (last,)]


def test_a_flush_that_carries_data_comes_before_it_and_forced_data_is_durable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Writer(path) as writer:
        writer.flush()
        writer.write(0, b"a" * 512)
        writer.write(512, b"b" * 512, Flag.FLUSH | Flag.FUA)
        writer.write(1024, b"c" * 512)
    with WriteLog(path) as log:
        epochs = [([each.offset for each in epoch.entries], epoch.flushed) for epoch in log.epochs()]
    assert epochs == [([0], True), ([512], True), ([1024], False)]


def test_a_file_that_is_not_a_log_or_is_truncated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(4096))
    assert position(path) == 0
    with pytest.raises(Error, match="no log of writes"):
        WriteLog(path)
    with Writer(path) as writer:
        writer.write(0, b"a" * 512)
    path.write_bytes(path.read_bytes()[:-512])
    with WriteLog(path) as log, pytest.raises(Error, match="ends at 1024 bytes"):
        log.data(next(log.entries()))
    path.write_bytes(path.read_bytes()[:512])
    with WriteLog(path) as log, pytest.raises(Error, match="ends at 512 bytes"):
        list(log.entries())


# Disks and their states


def disk_image(path: Path, contents: dict[str, bytes]) -> Path:
    layout = {**LAYOUT, "uboot-env": ENVIRONMENT} if "uboot-env" in contents else LAYOUT
    parts = []
    for number, (name, (begin, size)) in enumerate(layout.items(), 1):
        kind = TYPES.get(name, gpt.ROOT[Architecture.x86_64])
        parts.append(entry(UUID(str(kind)), number, begin * 2048, (begin + size) * 2048 - 1, name))
    data = image(*parts, sectors=17 * 2048)
    for name, body in contents.items():
        data[layout[name][0] * MIB : layout[name][0] * MIB + len(body)] = body
    path.write_bytes(data)
    return path


def test_a_disk_in_pieces_is_the_same_disk_and_what_was_tried_is_taken_back(tmp_path: Path) -> None:
    source = disk_image(tmp_path / "disk.img", {"root-a": random_blocks("a", 100)})
    before = source.read_bytes()
    with Disk(source, tmp_path / "pieces") as disk:
        assert [piece.name for piece in disk.pieces] == ["gap-0", *LAYOUT, "gap-6"]
        stamps = disk.stamps(0, disk.size)
        with disk.tentative():
            disk.write(4 * MIB - 512, b"across two pieces".ljust(1024))
            disk.zero(4 * MIB + 4096, 3 * MIB)
            disk.write(4 * MIB + 8192, b"in a hole".ljust(512))
            assert disk.read(4 * MIB - 512, 1024) == b"across two pieces".ljust(1024)
            assert disk.read(4 * MIB + 4096, 4096) == bytes(4096)
            changed = [number for number, pair in enumerate(zip(stamps, disk.stamps(0, disk.size), strict=True))
                       if pair[0] != pair[1]]  # fmt: skip
            assert {4 * MIB // BLOCK - 1, 4 * MIB // BLOCK, 4 * MIB // BLOCK + 2} <= set(changed)
        assert disk.stamps(0, disk.size) == stamps
        assert disk.assemble(tmp_path / "again.img").read_bytes() == before
        disk.write(512, b"stays".ljust(512))
        assert disk.stamps(0, 4096) != stamps[:1]
        with disk.open() as view:
            view.seek(512)
            assert view.read(5) == b"stays"


def test_every_state_has_old_or_new_sectors_and_each_flush_has_the_new_ones(tmp_path: Path) -> None:
    chance = random.Random(5)
    source = disk_image(tmp_path / "disk.img", {"root-b": random_blocks("b", 200)})
    model, epochs = bytearray(source.read_bytes()), []
    with Writer(tmp_path / "log") as writer:
        for _ in range(30):
            old = bytes(model)
            for _ in range(chance.randrange(1, 6)):
                place, size = 6 * MIB + chance.randrange(500) * SECTOR, chance.randrange(1, 20) * SECTOR
                if chance.random() < 0.2:
                    writer.discard(place, size)
                    model[place : place + size] = bytes(size)
                else:
                    data = chance.randbytes(size)
                    writer.write(place, data)
                    model[place : place + size] = data
            writer.flush()
            epochs.append((old, bytes(model)))
    seen = 0
    with WriteLog(tmp_path / "log") as log, Disk(source, tmp_path / "pieces") as disk:
        for state in replay_states(log, disk, variants=3, seed=1):
            old, new = epochs[state.epoch.number]
            now = disk.read(0, disk.size)
            if not state.variant:
                assert now == new, state
                continue
            assert now != new or state.missing, state
            seen += now not in (old, new)
            if len(state.epoch.entries) == 1:  # with several, a sector may have been written twice
                for place in range(6 * MIB, 7 * MIB, SECTOR):
                    sector = slice(place, place + SECTOR)
                    assert now[sector] in (old[sector], new[sector])
    assert seen > 30, "most variants are neither the state before nor the one after"


def test_the_same_seed_makes_the_same_states(tmp_path: Path) -> None:
    source = disk_image(tmp_path / "disk.img", {})
    with Writer(tmp_path / "log") as writer:
        for number in range(20):
            writer.write(6 * MIB + number * 4096, random_blocks(number, 2))
        writer.flush()

    def run(seed: int) -> list[bytes]:
        with WriteLog(tmp_path / "log") as log, Disk(source, tmp_path / "pieces") as disk:
            return [disk.read(6 * MIB, MIB) for _ in replay_states(log, disk, seed=seed)]

    assert run(1) == run(1) != run(2)


# Boot loaders


def listed(name: str, left: int | None = None, key: str = "edge", version: str = "") -> Listed:
    return Listed(f"{name}.efi", name, left, 0, "", None, key, version)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (listed("edge-10-a"), listed("edge-9-b")),  # numbers are compared as such
        (listed("edge-2-b", 1), listed("edge-1-a")),
        (listed("edge-1-a"), listed("edge-2-b", 0)),  # no try left: last of all
        (listed("edge-1-a", 2), listed("edge-2-b", 0)),
        (listed("edge-1-a", version="2"), listed("edge-2-b", version="1")),  # a version counts before the name
        (listed("edge-1-a", key="a"), listed("edge-2-b", key="b")),
        (listed("edge-1-a"), listed("edge-2-b", key="")),
        (listed("edge-1-a", 3), listed("edge-1-a", 2)),
    ],
)
def test_systemd_boot_takes_the_higher_name_that_has_a_try_left(first: Listed, second: Listed) -> None:
    assert compare_names(first, second) < 0 < compare_names(second, first)


def test_versions_are_in_the_order_of_their_specification() -> None:
    ordered = ["1.0~rc1", "1.0", "1.0-1", "1.0.1", "1.2", "1.10", "2"]
    for place, one in enumerate(ordered):
        assert [compare_versions(one, other) < 0 for other in ordered] == [place < at for at in range(len(ordered))]


def pe(name: str) -> bytes:
    """The least unified kernel image: os-release, and something else."""
    release = f"ID=debian\nIMAGE_ID=edge\nPRETTY_NAME={name}\n".encode()
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 2, 0, 0, 0, 0, 0)
    release, linux = release.ljust(512, b"\0"), random_blocks(name, 12)
    sections = b"".join(
        struct.pack("<8sIIIIIIHHI", title, len(body), 0x1000, len(body), place, 0, 0, 0, 0, 0)
        for title, body, place in ((b".osrel", release, 512), (b".linux", linux, 1024))
    )
    return (head + coff + sections).ljust(512, b"\0") + release + linux


def two_versions(folder: Path, kind: str = "efi") -> list[KnownVersion]:
    """Builds 1.0.0 and 1.1.0."""
    versions = []
    for version in ("1.0.0", "1.1.0"):
        path = make_build(folder / version, version=version, root=random_blocks(f"root {version}", 60), kind=kind)
        for slot in "ab":
            name = path / f"edge-{slot}.{kind}"
            if kind == "efi":
                name.write_bytes(pe(f"{version} {slot}"))
        digests = {slot: (path / f"edge-{slot}.{kind}").read_bytes() for slot in "ab"}
        versions.append(KnownVersion.of(path))
        boot = {hashlib.sha256(data).hexdigest(): slot for slot, data in digests.items()}
        versions[-1] = KnownVersion(version, path / "root.erofs", path / "root.verity", "0" * 64, boot)
    return versions


def sectors(before: bytes, after: bytes) -> list[tuple[int, bytes]]:
    """The sectors that differ, as writes of those that follow each other."""
    after = after.ljust(len(before), b"\0")
    before = before.ljust(len(after), b"\0")
    numbers = [
        place // SECTOR
        for place in range(0, len(after), SECTOR)
        if before[place : place + SECTOR] != after[place : place + SECTOR]
    ]
    return [
        (first * SECTOR, after[first * SECTOR : (first + count) * SECTOR]) for first, count in consecutive_runs(numbers)
    ]


@pytest.fixture
def pair(tmp_path: Path) -> list[KnownVersion]:
    return two_versions(tmp_path / "builds")


def slot(version: KnownVersion, letter: str) -> dict[str, bytes]:
    return {f"root-{letter}": version.root.read_bytes(), f"root-{letter}-verity": version.tree.read_bytes()}


def boot_file(version: KnownVersion, letter: str) -> bytes:
    return (version.root.parent / f"edge-{letter}.efi").read_bytes()


def update(folder: Path, old: KnownVersion, new: KnownVersion, *, careless: bool = False) -> tuple[Path, Path]:
    """An image of a device with `old` in slot A, and the log of an update of slot B to `new`."""
    other = {"loader/loader.conf": b"timeout 0\n", "EFI/BOOT/BOOTX64.EFI": random_blocks("loader", 2)}
    good = {**other, "EFI/Linux/edge-1-a.efi": boot_file(old, "a")}
    steps = [
        good, {**good, "EFI/Linux/edge-b.efi.staged": boot_file(new, "b")},
        {**good, "EFI/Linux/edge-2-b+3.efi": boot_file(new, "b")},
    ]  # fmt: skip
    systems = [fat16(files) for files in steps]
    source = disk_image(folder / "disk.img", {**slot(old, "a"), "esp": systems[0]})
    log = folder / "log"
    with Writer(log) as writer:
        for name, body in slot(new, "b").items():
            for place in range(0, len(body), 8 * BLOCK):
                writer.write(LAYOUT[name][0] * MIB + place, body[place : place + 8 * BLOCK])
        if not careless:
            writer.flush()
        for before, after in itertools.pairwise(systems):
            for place, data in sectors(before, after):
                writer.write(MIB + place, data)
            if not careless:
                writer.flush()
        writer.flush()
    return source, log


def test_an_update_that_switches_last_leaves_something_whole_to_boot_at_every_moment(
    tmp_path: Path, pair: list[KnownVersion]
) -> None:
    old, new = pair
    source, log = update(tmp_path, old, new)
    with WriteLog(log) as written:
        marks = {"install": 0, "switch": written.count - 1}
    plan = SurveyPlan([old, new], variants=12, marks=marks, keep=2)
    report = survey(log, source, tmp_path / "survey", plan, None)
    assert report.findings == []
    assert (report.bad, report.flushes) == (0, 3)
    assert report.states > 25
    assert set(report.chosen) == {"1.0.0 in slot a", "1.1.0 in slot b"}
    assert set(report.phases) == {"install", "switch"}
    assert len(report.kept) == 2 and all(Path(path).stat().st_size == source.stat().st_size for path in report.kept)
    with Disk(source, tmp_path / "again") as disk:
        loader = BootLoaderModel(disk, [old, new])
        assert [str(each) for each in loader.boot_order()] == ["EFI/Linux/edge-1-a.efi (1.0.0 in slot a)"]
        loader.close()
    with Disk(Path(list(report.kept)[-1]), tmp_path / "kept") as disk:
        loader = BootLoaderModel(disk, [old, new])
        assert [(each.version, each.left) for each in loader.boot_order()] == [("1.1.0", 3), ("1.0.0", None)]
        loader.close()


def test_an_update_that_trusts_the_order_of_its_writes_is_found_out(tmp_path: Path, pair: list[KnownVersion]) -> None:
    old, new = pair
    source, log = update(tmp_path, old, new, careless=True)
    report = survey(log, source, tmp_path / "survey", SurveyPlan([old, new], variants=30), None)
    assert report.bad > 5
    assert any("blocks of its root" in finding for finding in report.findings)


@pytest.mark.parametrize(
    ("place", "finding"),
    [
        (4 * MIB + 4096, r"1 blocks of its root .* not those of 1\.0\.0"),
        (5 * MIB, r"1 of its hash tree"),
        (512, "partition table: the table has a header of"),
        (MIB, "boot partition: no FAT file system"),
        (MIB + 55 * SECTOR, "its bytes are of no build"),
    ],
)
def test_damage_is_found_wherever_it_is(tmp_path: Path, pair: list[KnownVersion], place: int, finding: str) -> None:
    old = pair[0]
    good = {"EFI/Linux/edge-1-a.efi": boot_file(old, "a")}
    source = disk_image(tmp_path / "disk.img", {**slot(old, "a"), "esp": fat16(good)})
    with Writer(tmp_path / "log") as writer:
        writer.write(place, bytes(SECTOR) if place == MIB else b"EFI PART".ljust(SECTOR, b"?"))
        writer.flush()
    report: Survey = survey(tmp_path / "log", source, tmp_path / "survey", SurveyPlan(pair, variants=0), None)
    assert report.bad == 1
    assert any(re.search(finding, reported) for reported in report.findings), report.findings


def test_a_file_without_a_boot_image_is_not_an_entry_and_a_second_name_is_harmless(
    tmp_path: Path, pair: list[KnownVersion]
) -> None:
    old, new = pair
    files = {
        "EFI/Linux/edge-1-a.efi": boot_file(old, "a"), "EFI/Linux/edge-2-b+3.efi": b"", "EFI/Linux/x.efi": b"no image",
        "EFI/Linux/edge-3-a+1-2.efi": boot_file(old, "a"), "EFI/Linux/edge-b.efi.staged": boot_file(new, "b"),
    }  # fmt: skip
    with Disk(disk_image(tmp_path / "disk.img", {**slot(old, "a"), "esp": fat16(files)}), tmp_path / "d") as disk:
        loader = BootLoaderModel(disk, pair)
        assert [(each.file[10:], each.left, each.problem) for each in loader.boot_order()] == [
            ("edge-3-a+1-2.efi", 1, None), ("edge-1-a.efi", None, None),
        ]  # fmt: skip
        loader.close()


def test_u_boots_choice_is_that_of_the_slots_state(tmp_path: Path) -> None:
    old, new = two_versions(tmp_path / "builds", kind="img")
    state = UBootState(1, ("b", "a"), {"a": BootCounter(None), "b": BootCounter(2, 1)})
    torn = state.encode()[:-1] + b"?"
    files = {f"edge-{letter}.img": (each.root.parent / f"edge-{letter}.img").read_bytes()
             for letter, each in (("a", old), ("b", new))}  # fmt: skip

    def order(environment: bytes, files: dict[str, bytes]) -> list[Candidate]:
        contents = {"esp": fat16(files), "uboot-env": environment, **slot(old, "a"), **slot(new, "b")}
        with Disk(disk_image(tmp_path / "disk.img", contents), tmp_path / "pieces") as disk:
            loader = BootLoaderModel(disk, [old, new], kind="uboot")
            candidates = loader.boot_order()
            loader.close()
        return candidates

    apart = uboot_state.COPY_OFFSETS[1]
    candidates = order(state.encode().ljust(apart, b"\0") + torn, files)
    assert [(each.slot, each.left, each.done) for each in candidates] == [("b", 2, 1), ("a", None, 0)]
    used = UBootState(3, ("b", "a"), {"a": BootCounter(None), "b": BootCounter(0, 3)})
    assert [each.slot for each in order(torn.ljust(apart, b"\0") + used.encode(), files)] == ["a", "b"]
    damaged = {**files, "edge-b.img": files["edge-b.img"][:-1] + b"?"}
    assert [each.slot for each in order(state.encode().ljust(apart, b"\0") + torn, damaged)] == ["a"]


# What programs say


def test_what_fsck_fat_says_is_sorted_by_whether_a_file_is_hurt() -> None:
    lagging = """fsck.fat 4.2 (2021-01-31)
There are differences between boot sector and its backup.
This is mostly harmless. Differences: (offset:original/backup)
  65:01/00
  Not automatically fixing this.
Dirty bit is set. Fs was not properly unmounted and some data may be corrupt.
 Automatically removing dirty bit.
FATs differ but appear to be intact.
  Using first FAT.
Orphaned long file name part "edge-1-a+3.efi"
  Auto-deleting.
Reclaimed 196 unused clusters (100352 bytes).
Free cluster summary wrong (515795 vs. really 515991)
  Auto-correcting.

Leaving filesystem unchanged.
/var/tmp/x.img: 3 files, 199/516190 clusters
"""
    checked = filesystems.parse_fat_output(lagging)
    assert (checked.files, checked.problems) == ((), ())
    shared = """fsck.fat 4.2 (2021-01-31)
/EFI/Linux/edge-1-a+3.efi  and
/EFI/Linux/edge-b.efi.staged
  share clusters.
  Truncating second to 2048 bytes.
/EFI/Linux/edge-b.efi.staged
  File size is 100000 bytes, cluster chain length is 2048 bytes.
  Truncating file to 2048 bytes.
Both FATs appear to be corrupt. Giving up.
/var/tmp/x.img: 4 files, 203/516190 clusters
"""
    checked = filesystems.parse_fat_output(shared)
    assert checked.files == ("/EFI/Linux/edge-1-a+3.efi", "/EFI/Linux/edge-b.efi.staged")
    assert checked.problems == ("Both FATs appear to be corrupt. Giving up.",)
