"""Slot images for U-Boot, the script that chooses one, and the disk around them."""

import itertools
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.boot.registry import boot_flow
from osbuild.boot.uboot import UBootFlow, render_script, uboot_settings
from osbuild.config.board import Board, load_board, shipped_boards
from osbuild.formats import gpt, uimage
from osbuild.formats.mbr import FAT32, PROTECTIVE
from osbuild.host.architecture import Architecture
from osbuild.shared import uboot_environment, uboot_state
from osbuild.shared.boot_entry import TRIES
from osbuild.shared.errors import Error
from tests.support.disks import unpack_disk

BOARDS = [board for board in map(load_board, shipped_boards()) if board.boot == "uboot"]
# `mkimage -A arm64 -O linux -T multi -C none -n edge-a -d one:two:three` (u-boot-tools), of files with these words
MKIMAGE = (
    "27051956887308a1000000050000001d00000000000000001b2177ca05160400656467652d61000000000000000000000000000000000000"
    "0000000000000000000000030000000300000005000000006f6e650074776f007468726565"
)
MKIMAGE_SCRIPT = (
    "270519568d1a138500000005000000100000000000000000d9340162050206007800000000000000000000000000000000000000000000"
    "00000000000000000000000008000000006563686f2068690a"
)


def test_the_bytes_of_an_image_are_mkimages() -> None:
    packed = uimage.pack_multi([b"one", b"two", b"three"], Architecture.arm64, "edge-a", time=5)
    assert packed.hex() == MKIMAGE
    assert uimage.pack_script("echo hi\n", Architecture.armv7, "x", time=5).hex() == MKIMAGE_SCRIPT


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6))
def test_an_image_is_taken_apart_as_it_was_made(parts: list[bytes]) -> None:
    parsed = uimage.parse_multi(uimage.pack_multi(parts, Architecture.arm64, "edge-b", time=7), "here")
    assert parsed == uimage.Uimage("edge-b", Architecture.arm64, 7, tuple(parts))


@given(st.integers(0, len(MKIMAGE) // 2 - 1), st.integers(1, 255))
def test_no_changed_byte_of_an_image_goes_unseen(place: int, change: int) -> None:
    data = bytearray.fromhex(MKIMAGE)
    data[place] ^= change
    with pytest.raises(Error, match=r"^here: "):
        uimage.parse_multi(bytes(data), "here")


@given(st.integers(0, len(MKIMAGE) // 2 - 1))
def test_a_truncated_image_is_reported(length: int) -> None:
    with pytest.raises(Error, match=r"^here: "):
        uimage.parse_multi(bytes.fromhex(MKIMAGE)[:length], "here")


def test_a_kernel_goes_to_its_address() -> None:
    data = uimage.pack_kernel(b"code", Architecture.armv7, "U-Boot", address=0x8000)
    load_address, entry = struct.unpack_from(">II", data, 16)
    assert (load_address, entry, data[64:]) == (0x8000, 0x8000, b"code")


# --- the script


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_script_counts_with_the_agents_numbers_and_names(board: Board) -> None:
    text = render_script(board)
    assert re.findall(r"@[A-Z]+@", text) == []
    (listed,) = re.findall(r'setenv edge_names "(.*)"', text)
    assert set(listed.split()) == set(
        uboot_environment.unpack_environment(uboot_state.initial_partition()[: uboot_state.COPY_SIZE]) or {}
    )
    assert f"part start ${{devtype}} ${{devnum}} {uboot_state.PARTITION} " in text
    assert f"+ {uboot_state.COPY_OFFSETS[1] // 512:x}\n" in text
    assert f"env export -c -s {uboot_state.COPY_SIZE:x} " in text
    assert f"setenv BOOT_${{edge_name}}_LEFT {TRIES:x}\n" in text
    assert uboot_state.GOOD in text
    for slot in "ab":
        assert f"edge_file {UBootFlow().boot_image_path(slot)};" in text


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_nothing_in_memory_lies_over_another(board: Board) -> None:
    """By the sizes of Debian's kernels: 37 MiB unpacked for ARM64, 6 MiB for ARMv7, images of up to 64 MiB."""
    mib, at = 2**20, board.uboot
    kernel = (48 if board.architecture is Architecture.arm64 else 8) * mib
    sizes = {"script": mib, "state": 2 * uboot_state.COPY_SIZE, "device_tree": mib, "kernel": kernel, "image": 64 * mib}
    ranges = sorted((int(getattr(at, f"{name}_address"), 16), size) for name, size in sizes.items())
    for (start, size), (following, _) in itertools.pairwise(ranges):
        assert start + size <= following
    assert sum(ranges[-1]) <= 384 * mib, "less memory than the smallest board leaves to the processor"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_no_noise_on_a_serial_port_stops_u_boot(board: Board) -> None:
    assert uboot_settings(board)["bootdelay"] == "-2"
    assert uboot_settings(board)["scriptaddr"] == board.uboot.script_address


# --- the disk


def head(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(2**20)


def test_the_boot_partition_is_in_the_mbr_and_the_disk_is_gpt_all_the_same(tmp_path: Path) -> None:
    disk = unpack_disk("disk.img", tmp_path)
    before = head(disk)
    table = gpt.read_table(disk)
    UBootFlow().patch_disk(disk)
    after = head(disk)
    assert gpt.read_table(disk) == table
    assert (before[:446], before[512:]) == (after[:446], after[512:])
    entries = [struct.unpack_from("<B3sB3sII", after, 446 + 16 * number) for number in range(4)]
    boot = table.partitions[0]
    assert [(entry[2], entry[4], entry[5]) for entry in entries] == [
        (FAT32, boot.first_lba, boot.size // 512), (PROTECTIVE, 1, boot.first_lba - 1), (0, 0, 0), (0, 0, 0)
    ]  # fmt: skip


def test_only_u_boot_needs_a_partition_for_counting() -> None:
    assert boot_flow(load_board("x86_64")).extra_partitions() == ()
    (partition,) = boot_flow(load_board("rpi3")).extra_partitions()
    assert (partition.label, partition.size) == ("uboot-env", 8 * 2**20)
    copies = [partition.content[place : place + uboot_state.COPY_SIZE] for place in uboot_state.COPY_OFFSETS]
    states = [uboot_state.decode_state(copy) for copy in copies]
    assert [state.generation for state in states if state] == [1, 2]
    assert uboot_state.newest_state(states).counter("a") == uboot_state.BootCounter(3, 0)
