"""Flashing to block devices, among them failing cards, and to files that boot."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.failing_cards import FailingCard, attach_loop_device, insert_card, set_capacity
from support.machines import MachineFactory
from support.nodes import CONNECT, USER, Node, make_seed

from osbuild.config.board import Board
from osbuild.flash.plan import MAGIC
from osbuild.formats import gpt
from osbuild.host.run import CommandError, run_command
from osbuild.image import block_map
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.ssh import KeyPair
from tests.support.disks import unpack_disk

MIB = 2**20
SIZE = 160 * MIB
LACKING = [
    why
    for why, here in (
        ("root is needed to make loop devices", os.geteuid() == 0),
        ("this host has no loop devices", Path("/dev/loop-control").exists()),
    )
    if not here
]
devices = pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING))
fuse = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this host has no /dev/fuse for cards that fail")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk image of 48 MiB, of which some 35 are written, with its block map."""
    path = unpack_disk("disk.img", tmp_path_factory.mktemp("small"))
    with path.open("r+b") as file:  # fill the free space of the first partition
        file.seek(8 * MIB)
        file.write(os.urandom(26 * MIB))
    path.with_name("disk.bmap").write_text(block_map.make_bmap(path).to_xml())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for cards; asserts that nothing in it stays mounted or attached."""
    yield tmp_path
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in run_command(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"])


def flash_command(image: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "osbuild", "flash", str(image), *(str(word) for word in arguments)]


def run_flash(image: Path, *arguments: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Flash, and return the exit status, the result of each target, and the messages."""
    result = subprocess.run(
        flash_command(image, *arguments, "--yes", "--json"), capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in result.stderr
    targets = json.loads(result.stdout)["targets"] if result.stdout else []
    return result.returncode, {target["target"]: target for target in targets}, result.stderr


def make_stick(folder: Path, name: str = "stick", size: int = SIZE) -> Path:
    """Make the file of an ordinary card that was used before."""
    path = folder / name
    path.write_bytes(os.urandom(MIB) * (size // MIB))
    return path


def assert_unbootable(store: Path) -> None:
    with store.open("rb") as file:
        head = file.read(MIB)
    assert head.startswith(MAGIC) and b"EFI PART" not in head and head[510:512] != b"\x55\xaa"


def assert_same(store: Path, image: Path) -> None:
    """Assert that all mapped ranges were written, and that the partition table covers the whole disk."""
    table = gpt.read_table(store)
    assert table.size == store.stat().st_size and table.partitions == gpt.read_table(image).partitions
    with image.open("rb") as old, store.open("rb") as new:
        for extent in block_map.make_bmap(image).ranges[:-1]:  # the last is the backup of the table, which was moved
            start = max(extent.offset, MIB)
            assert block_map.hash_range(new, start, extent.end - start) == block_map.hash_range(
                old, start, extent.end - start
            )


@devices
def test_a_card_is_written_and_verified(small: Path, folder: Path) -> None:
    store = make_stick(folder)
    with attach_loop_device(store) as device:
        status, targets, messages = run_flash(small, device)
    assert (status, targets[str(device)]["state"]) == (0, "done"), messages
    assert_same(store, small)


@devices
def test_a_partition_and_a_disk_with_a_mounted_partition_are_refused(small: Path, folder: Path) -> None:
    store, mount_point = make_stick(folder), folder / "my card"
    mount_point.mkdir()
    with attach_loop_device(store) as device:
        run_command(["addpart", device, "1", "2048", str(64 * MIB // 512)])
        partition = f"{device}p1"
        try:
            status, _, messages = run_flash(small, partition)
            assert status == 1 and "this is a partition" in messages and f"name the disk: {device}" in messages
            run_command(["mkfs.ext4", "-q", "-F", partition])
            run_command(["mount", partition, mount_point])
            try:
                status, _, messages = run_flash(small, device)
            finally:
                run_command(["umount", mount_point])
            assert (
                status == 1
                and f"{device.name}p1 is mounted at {mount_point}" in messages
                and f"umount {mount_point}" in messages
            )
        finally:
            run_command(["delpart", device, "1"])


@devices
def test_devices_that_are_in_use_read_only_too_small_or_have_other_sectors_are_refused(
    small: Path, folder: Path
) -> None:
    store = make_stick(folder)
    before = store.read_bytes()
    with attach_loop_device(store) as device:
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL)  # like a file system or a RAID
        try:
            assert "it is in use by another program" in run_flash(small, device)[2]
        finally:
            os.close(descriptor)
        run_command(["blockdev", "--setro", device])
        status, _, messages = run_flash(small, device)
        assert status == 1 and "it is read-only" in messages
    tiny = folder / "tiny"
    tiny.write_bytes(bytes(40 * MIB))
    with attach_loop_device(tiny) as device:
        status, _, messages = run_flash(small, device)
        assert status == 1 and f"the disk has {40 * MIB} bytes" in messages
        status, _, messages = run_flash(small, tiny)
        assert status == 1 and f"in use as {device}" in messages
    with attach_loop_device(store, sector=4096) as device:
        status, _, messages = run_flash(small, device)
        assert status == 1 and "sectors of 512 bytes, and this disk has 4096" in messages
    assert store.read_bytes() == before and not any(tiny.read_bytes())


@devices
def test_swap_is_refused_with_the_command_that_ends_it(small: Path, folder: Path) -> None:
    with attach_loop_device(make_stick(folder)) as device:
        run_command(["mkswap", "-q", device])
        try:
            run_command(["swapon", device])
        except CommandError as error:  # not allowed in a container
            pytest.skip(f"this host lets nobody use swap: {error}")
        try:
            status, _, messages = run_flash(small, device)
        finally:
            run_command(["swapoff", device])
        assert status == 1 and "in use as swap" in messages and f"swapoff {device}" in messages


@devices
def test_without_a_terminal_to_ask_on_yes_is_required(small: Path, folder: Path) -> None:
    store = make_stick(folder)
    with attach_loop_device(store) as device:
        result = subprocess.run(flash_command(small, device), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (
        result.returncode == 2
        and "--yes" in result.stderr
        and str(device) in result.stderr
        and "168 MB" in result.stderr
    )
    assert not store.read_bytes().startswith(MAGIC)


@devices
@fuse
@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ({"drops_from": 0}, "data written at the beginning was lost"),
        ({"drops_from": 30 * MIB}, "was lost"),
        ({"drops_from": SIZE - 16384}, "differs from what was written"),
        ({"ends_at": SIZE - MIB}, "it is smaller than the"),
        ({"ends_at": 25 * MIB}, "it is smaller than the"),
        ({"locked_after": 0}, "it became read-only"),
        ({"locked_after": 12 * MIB}, "it became read-only"),
        ({"pulled_after": 12 * MIB}, "the device was removed or stopped responding"),
    ],
    ids=lambda value: "-".join(f"{name}-{at}" for name, at in value.items()) if isinstance(value, dict) else "",
)
def test_a_failing_card_is_detected_and_reported(
    fault: dict[str, int], messages: str, small: Path, folder: Path
) -> None:
    card = FailingCard(SIZE, make_stick(folder), **fault)  # type: ignore[arg-type]
    with insert_card(card, folder) as device:
        status, targets, output = run_flash(small, device)
    target = targets[str(device)]
    assert status == 1 and messages in target["error"]["message"] and target["error"]["hint"], output
    assert target["state"] in ("unclear", "unfinished")
    assert f"{device}: UNFINISHED" in output
    if target["state"] == "unfinished":
        assert_unbootable(card.store)
    else:
        assert "its beginning was possibly not wiped" in output


@devices
def test_a_card_that_becomes_read_only_during_the_write_is_reported(small: Path, folder: Path) -> None:
    with insert_card(FailingCard(SIZE, make_stick(folder), delay=0.02), folder) as device:
        process = subprocess.Popen(flash_command(small, device, "--yes"), stderr=subprocess.PIPE, text=True)
        wait_for_marker(folder / "stick", process)
        run_command(["blockdev", "--setro", device])
        messages = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "it became read-only while" in messages


def wait_for_marker(store: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the beginning was wiped and the rest is being written."""
    file = os.open(store, os.O_RDONLY)
    try:
        while os.pread(file, len(MAGIC), 0) != MAGIC or any(os.pread(file, 512, SIZE - 512)):
            assert process.poll() is None
    finally:
        os.close(file)


@devices
@fuse
def test_a_card_that_was_removed_and_inserted_again_is_finished_by_the_same_command(small: Path, folder: Path) -> None:
    card = FailingCard(SIZE, make_stick(folder), pulled_after=20 * MIB)
    with insert_card(card, folder) as device:
        status, targets, messages = run_flash(small, device)
        assert status == 1 and "run the same command again: it continues" in messages
        assert_unbootable(card.store)
        with card.store.open("rb") as file:
            file.seek(-MIB, os.SEEK_END)
            assert not any(file.read()), "the backup of an older table is gone too"
        card.pulled_after = None
        first = card.written
        status, targets, messages = run_flash(small, device)
        assert status == 0, messages
        target = targets[str(device)]
        assert target["resumed"] and target["same"] >= 12 * MIB and card.written - first < 35 * MIB
    assert_same(card.store, small)


@devices
@fuse
def test_a_card_whose_size_becomes_zero_is_reported_as_removed(small: Path, folder: Path) -> None:
    card = FailingCard(SIZE, make_stick(folder), delay=0.02)
    with insert_card(card, folder) as device:
        process = subprocess.Popen(flash_command(small, device, "--yes"), stderr=subprocess.PIPE, text=True)
        wait_for_marker(card.store, process)
        card.size = 0
        (folder / "fuse").stat()
        set_capacity(device)
        messages = process.communicate(timeout=120)[1]
        card.size = SIZE
    assert process.returncode == 1 and "the device was removed or stopped responding" in messages


@devices
@fuse
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_a_card_that_does_not_boot_and_reports_it(
    number: signal.Signals, status: int, small: Path, folder: Path
) -> None:
    card = FailingCard(SIZE, make_stick(folder), delay=0.02)
    with insert_card(card, folder) as device:
        process = subprocess.Popen(flash_command(small, device, "--yes"), stderr=subprocess.PIPE, text=True)
        wait_for_marker(card.store, process)
        process.send_signal(number)
        messages = process.communicate(timeout=120)[1]
        assert process.returncode == status
        assert f"{device}: UNFINISHED, it does not boot. To finish it, run the same command again" in messages
        assert_unbootable(card.store)
        card.delay = 0
        assert run_flash(small, device)[1][str(device)]["resumed"]
    assert_same(card.store, small)


@devices
@fuse
def test_if_one_of_several_cards_fails_the_others_are_finished(small: Path, folder: Path) -> None:
    stores = [make_stick(folder, name) for name in ("one", "two")]
    bad = FailingCard(SIZE, make_stick(folder, "three"), pulled_after=15 * MIB)
    with attach_loop_device(stores[0]) as one, insert_card(bad, folder) as three, attach_loop_device(stores[1]) as two:
        status, targets, _ = run_flash(small, one, three, two)
        states = [targets[str(device)]["state"] for device in (one, three, two)]
    assert status == 1 and states == ["done", "unfinished", "done"]
    for store in stores:
        assert_same(store, small)
    assert_unbootable(bad.store)


def test_a_flashed_file_boots_with_its_own_seed(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    seed = make_seed("minimal", "flashed", key, tmp_path / "seed.iso")
    card = make_stick(tmp_path, "card.img", 2560 * MIB)
    run_command(["truncate", "--size=4G", card])  # a power of two, as some boards' emulated card readers require
    packed = image("minimal") / "disk.img.zst"
    bmap = tmp_path / "disk.bmap"
    bmap.write_text(block_map.make_bmap(image("minimal") / "disk.img").to_xml())
    status, targets, messages = run_flash(packed, card, "--seed", seed, "--bmap", bmap)
    assert status == 0, messages
    target = targets[str(card)]
    assert target["written"] < 0.2 * target["size"] and target["node"] == "seed.iso"
    booted = machine(MachineConfig(board=board, image=card, memory=1024 * MIB))
    node = Node(booted, booted.guest(USER, key))
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    assert node.run("hostname").strip() == "flashed"
    sizes = node.run("lsblk -bno SIZE $(findmnt -no SOURCE /var)").split()
    assert int(sizes[0]) > card.stat().st_size - gpt.read_table(image("minimal") / "disk.img").size
