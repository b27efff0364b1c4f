"""The boot state that U-Boot and the agent share: no torn write may lose it."""

import argparse
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.agent.boot.loader import read_boot
from osbuild.agent.boot.uboot import find_state_partition as state_device
from osbuild.agent.commands import bless
from osbuild.agent.commands.status import collect_status
from osbuild.shared import uboot_state
from osbuild.shared.uboot_environment import pack_environment, unpack_environment
from osbuild.shared.uboot_state import (
    COPY_OFFSETS,
    COPY_SIZE,
    BootCounter,
    UBootState,
    change_state,
    decode_state,
    initial_partition,
    newest_state,
    read_state,
)
from tests.agent.test_health import Device

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
values = st.text("abcdefghijklmnopqrstuvwxyz =-0123456789", min_size=1, max_size=40)
counters = st.builds(BootCounter, st.none() | st.integers(0, 40), st.integers(0, 40))
states = st.builds(
    UBootState, st.integers(0, 2**31 - 1), st.sampled_from([("a", "b"), ("b", "a"), ("b",)]),
    st.fixed_dictionaries({"a": counters, "b": counters}),
)  # fmt: skip


@given(st.dictionaries(names, values, max_size=20))
def test_an_environment_reads_back_as_it_was_written(variables: dict[str, str]) -> None:
    assert unpack_environment(pack_environment(variables, 2048)) == variables


def test_the_bytes_of_an_environment_are_u_boots() -> None:
    # made by `mkenvimage -s 32` (u-boot-tools) from the lines a=1 and bc=two, with -p 0
    expected = "0b1ab5a8613d310062633d74776f000000000000000000000000000000000000"
    assert pack_environment({"a": "1", "bc": "two"}, 32).hex() == expected


@given(st.integers(0, 8 * 64 - 1))
def test_every_changed_bit_of_an_environment_is_detected(bit: int) -> None:
    data = bytearray(pack_environment({"BOOT_ORDER": "A B"}, 64))
    data[bit // 8] ^= 1 << bit % 8
    assert unpack_environment(bytes(data)) is None


@pytest.mark.parametrize("variables", [{"": "x"}, {"a=b": "x"}, {"a": "x\0y"}, {"a": "x" * 64}])
def test_variables_that_an_environment_cannot_store_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"variable"):
        pack_environment(variables, 64)


@given(states)
def test_a_state_reads_back_as_it_was_written(state: UBootState) -> None:
    decoded = decode_state(state.encode())
    assert decoded is not None
    assert decoded == state


@given(st.dictionaries(st.sampled_from(["GENERATION", "BOOT_ORDER", "BOOT_A_LEFT", "BOOT_A_DONE"]), values))
def test_a_valid_checksum_does_not_make_an_invalid_state_valid(variables: dict[str, str]) -> None:
    decoded = decode_state(pack_environment(variables, COPY_SIZE))
    assert decoded is None or "BOOT_ORDER" in variables


def partition(path: Path, *copies: UBootState | bytes) -> Path:
    with path.open("wb") as file:
        file.truncate(2 * COPY_OFFSETS[1])
        for offset, copy in zip(COPY_OFFSETS, copies, strict=False):
            file.seek(offset)
            file.write(copy if isinstance(copy, bytes) else copy.encode())
    return path


@given(states, states, st.integers(0, COPY_SIZE), st.integers(0, COPY_SIZE))
def test_a_torn_write_leaves_the_old_state_or_the_new(
    tmp_path_factory: pytest.TempPathFactory, old: UBootState, older: UBootState, start: int, end: int
) -> None:
    path = partition(tmp_path_factory.mktemp("torn") / "part", old, older)
    before, old_state = read_copies(path), read_state(path)
    new_state = change_state(
        path, lambda state: state.with_counter("a", BootCounter(2, 1)).with_counter("b", BootCounter(0, 9))
    )
    first, last = min(start, end), max(start, end)
    # Only the bytes between `first` and `last` of the new copy reached the card.
    torn = [
        copy[:first] + new[first:last] + copy[last:] for copy, new in zip(before, read_copies(path), strict=True)
    ]  # fmt: skip
    assert encoded(read_state(partition(path, *torn))) in (encoded(old_state), encoded(new_state))


def read_copies(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [os.pread(file.fileno(), COPY_SIZE, offset) for offset in COPY_OFFSETS]


def encoded(state: UBootState) -> bytes:
    return state.encode()


@pytest.mark.parametrize("garbage", [b"", b"\xff" * COPY_SIZE, os.urandom(COPY_SIZE)])
def test_a_damaged_copy_is_ignored_and_overwritten_next(tmp_path: Path, garbage: bytes) -> None:
    state = UBootState(7, ("b", "a"), {"a": BootCounter(1, 2), "b": BootCounter(None)})
    for copies in ((state, garbage), (garbage, state)):
        path = partition(tmp_path / "part", *copies)
        assert encoded(read_state(path)) == encoded(state)
        change_state(path, lambda state: state.with_good("a"))
        assert decode_state(read_copies(path)[copies.index(garbage)]) == UBootState(
            8, ("b", "a"), {"a": BootCounter(None), "b": BootCounter(None)}
        )


def test_without_a_valid_copy_the_slots_are_new_and_a_is_first(tmp_path: Path) -> None:
    path = partition(tmp_path / "part")
    assert read_state(path) == UBootState(0, ("a", "b"), {})
    assert read_state(path).counter("b") == BootCounter(3, 0)
    assert change_state(path, lambda state: state.with_good("a")).generation == 1


def test_copies_are_written_alternately_and_only_for_a_change(tmp_path: Path) -> None:
    path = partition(tmp_path / "part")
    path.write_bytes(initial_partition().ljust(2 * COPY_OFFSETS[1], b"\0"))
    generations = []
    for left in (2, 1, 1, 0):
        change_state(path, lambda state, left=left: state.with_counter("a", BootCounter(left, 3 - left)))  # type: ignore[misc]
        generations.append([copy.generation for data in read_copies(path) if (copy := decode_state(data))])
    assert generations == [[3, 2], [3, 4], [3, 4], [5, 4]]


def test_the_newest_valid_copy_is_used() -> None:
    assert newest_state([None, None]) == UBootState()
    assert newest_state([UBootState(0x10), UBootState(0xF)]).generation == 0x10
    assert newest_state([None, UBootState(3)]).generation == 3


# --- on a device


@pytest.fixture
def pi(tmp_path: Path) -> Device:
    """A device with two cards that have equal labels. The root file system is on the second one."""
    device = Device(tmp_path)
    device.put("usr/lib/edge-osbuild/image.json", '{"name": "minimal", "version": "1.0.0", "boot": "uboot"}')
    for disk in ("mmcblk0", "mmcblk1"):
        for number, name in enumerate(("esp", "uboot-env", "root-a"), 1):
            device.put(f"sys/devices/{disk}/{disk}p{number}/uevent", f"DEVNAME={disk}p{number}\nPARTNAME={name}\n")
            partition(tmp_path / f"dev/{disk}p{number}")
    (tmp_path / "sys/block/dm-0/slaves").mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/slaves/mmcblk1p3").symlink_to(tmp_path / "sys/devices/mmcblk1/mmcblk1p3")
    return device


def test_the_boot_state_is_on_the_card_of_the_root_file_system(pi: Device) -> None:
    assert state_device(pi.system).name == "mmcblk1p2"


@pytest.mark.parametrize(
    ("slots", "tries", "state", "why"),
    [
        ({"a": BootCounter(None)}, None, "good", "slot a is good, and no other slot has an image"),
        ({"a": BootCounter(2, 1)}, "2-1", "trial", "slot a is on trial: 1 try used, 2 left"),
        ({"a": BootCounter(None), "b": BootCounter(3)}, None, "good", "slot a is good; slot b will be tried"),
        ({"a": BootCounter(None), "b": BootCounter(0, 3)}, None, "good", "fell back to slot a: slot b failed 3 tries"),
        ({"a": BootCounter(0, 3), "b": BootCounter(0, 3)}, "0-3", "bad", "no slot is good: slot a and slot b"),
    ],
)
def test_slots_mean_the_same_as_with_systemd_boot(
    pi: Device, slots: dict[str, BootCounter], tries: str | None, state: str, why: str
) -> None:
    partition(pi.root / "dev/mmcblk1p2", UBootState(5, ("a", "b"), slots))
    for slot in slots:
        pi.put(f"efi/edge-{slot}.img", slot)
    pi.put("proc/cmdline", "edge.slot=a roothash=abc" + (f" edge.tries={tries}" if tries else ""))
    node_status = collect_status(pi.system)
    assert node_status["boot"]["state"] == state
    assert node_status["boot"]["counted"] is (tries is not None)
    assert node_status["why"].startswith(why)


def test_without_access_to_the_boot_state_the_kernel_argument_is_used(pi: Device) -> None:
    pi.put("proc/cmdline", "edge.slot=b edge.tries=a-1")
    (pi.root / "sys/block/dm-0/slaves/mmcblk1p3").unlink()
    entry = read_boot(pi.system).entry
    assert entry is not None
    assert (entry.slot, entry.left, entry.done, entry.state) == ("b", 10, 1, "trial")


def test_a_good_boot_is_no_longer_counted(pi: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    path = partition(
        pi.root / "dev/mmcblk1p2", UBootState(5, ("b", "a"), {"a": BootCounter(2, 1), "b": BootCounter(0, 3)})
    )
    monkeypatch.setattr(bless, "System", lambda: pi.system)
    assert bless.main(argparse.Namespace()) == 0
    assert read_state(path) == UBootState(6, ("b", "a"), {"a": BootCounter(None), "b": BootCounter(0, 3)})
    assert uboot_state.read_state(pi.root / "dev/mmcblk0p2") == UBootState()


def test_a_missing_device_is_reported(pi: Device) -> None:
    (pi.root / "dev/mmcblk1p2").unlink()
    with pytest.raises(FileNotFoundError, match="mmcblk1p2"):
        uboot_state.change_state(state_device(pi.system), lambda state: state.with_good("a"))
