"""Another disk in the machine: a disk with partitions of the same names as the booted disk's, or a copy of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import second_disk
from support.devices import Device, Lab, prepare_device, raw_disk
from support.machines import MachineFactory
from support.nodes import BOOT, CONNECT, MEMORY, USER, Node, image_tools, make_seed
from support.second_disk import BLOCK, UBOOT_USES, USES, copy_disk, copy_with_flipped_bit, file_digests, read_counters
from support.versions import Versions

from osbuild.config.board import Board
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.deadline import Deadline
from osbuild.qemu.disk import card_size
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.slow


def test_without_a_boot_loader_the_disk_with_the_matching_root_is_used(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], versions: Versions, key: KeyPair,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The kernel is started without firmware, and the node's own disk is the last that the initrd checks."""
    built = image("minimal") / "disk.img"
    other_disks = (
        copy_disk(versions.get("next", "light", bundle=False).image, tmp_path / "another-version.img"),
        copy_with_flipped_bit(built, tmp_path / "damaged-root.img", "root-a", 1024),  # the superblock of erofs
        copy_with_flipped_bit(built, tmp_path / "damaged-tree.img", "root-a-verity", BLOCK),  # the top of the hash tree
        second_disk.make_unrelated_disk(tmp_path / "stranger.img", image_tools(board)),
    )
    own_disk, seed = copy_disk(built, tmp_path / "own.img"), make_seed("minimal", "direct", key, tmp_path / "seed.iso")
    nvme = copy_with_flipped_bit(built, tmp_path / "nvme.img", "root-a", 1024)
    before = file_digests((*other_disks, nvme))
    direct = second_disk.direct_kernel(image("minimal") / "edge-a.efi", tmp_path)
    booted = machine(
        MachineConfig(
            board=board, memory=MEMORY, disks=(*other_disks, own_disk), nvme=(nvme,), media=(seed,), direct=direct
        )
    )
    node = Node(booted, booted.guest(USER, key))
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    node.wait_good()
    messages = node.run("dmesg | grep edge-init")
    for name in ("vda", "vdb", "vdc", "vdd"):
        assert f"the root file system of slot a on {name} does not match its root hash" in messages, messages
    assert "root file system on vde2, hash tree on vde3; ESP unknown" in messages
    used = second_disk.disks_in_use(node)
    assert set(used) == USES and set(used.values()) == {"vde"}, used
    assert second_disk.list_disks(node) == {"nvme0n1", "vda", "vdb", "vdc", "vdd", "vde", "vdf"}
    booted.power_cut()
    assert read_counters(own_disk)["a"][0] is None, "the slot on the node's own disk is good"
    assert file_digests((*other_disks, nvme)) == before, "something was written to another disk"


def test_a_copy_is_never_used_instead_of_the_disk_that_the_firmware_has_read(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], tmp_path: Path
) -> None:
    """A node that ran from the copy would use the copy's data, and mark a slot good that its own disk fails to boot."""
    built = image("minimal") / "disk.img"
    own_disk, copy = (
        copy_with_flipped_bit(built, tmp_path / "own.img", "root-a", 1024),
        copy_disk(built, tmp_path / "copy.img"),
    )
    before = file_digests((copy,))
    booted = machine(MachineConfig(board=board, memory=MEMORY, disks=(own_disk,), nvme=(copy,)))
    pattern = r"FAILED: the root file system of slot a cannot be mounted.*\(on (.*)\)|boot complete"
    match = booted.console.wait_for(pattern, BOOT)
    booted.power_cut()
    assert match[1] == "vda", match[0]
    assert read_counters(own_disk)["a"] == (2, 1)
    assert file_digests((copy,)) == before, "something was written to the copy"


def test_an_update_is_written_to_the_booted_disk_and_counted_on_it(lab: Lab, tmp_path: Path) -> None:
    """The other disk is a copy of the node's own, made after its first boot: they differ only in their connection."""
    version = lab.versions.get("n", "light", bundle=False)
    own_disk = raw_disk(version, tmp_path / "own.img")
    if lab.versions.board.qemu.disk == "sd":
        os.truncate(own_disk, card_size(own_disk, None))
    with lab.powered(version, "copied", disk=own_disk) as device:
        prepare_device(device)
        device.cut_power()
    copy = copy_disk(own_disk, tmp_path / "copy.img")
    before = file_digests((copy,))
    with lab.powered(version, "update-beside-copy", disk=own_disk, other=copy) as device:
        device.wait_complete()
        uses_only_its_own_disk(device)
        device.install(device.publish("next"), "--no-reboot")
        assert tries_left(own_disk) == {"a": None, "b": 3}
        device.machine.console.skip()
        device.node.guest.run("sudo systemctl reboot", check=False)
        deadline = Deadline(BOOT)
        while read_counters(own_disk).get("b") != (2, 1):
            assert not deadline.passed, "the boot loader has not counted the boot on the node's own disk"
            deadline.pause(0.2)
        match = device.wait_complete()
        assert (match["version"], match["slot"]) == ("1.1.0", "b")
        device.wait_settled()
        uses_only_its_own_disk(device)
        device.check_intact()
        device.cut_power()
    assert tries_left(own_disk) == {"a": None, "b": None}
    assert file_digests((copy,)) == before, "something was written to the copy"


def tries_left(disk: Path) -> dict[str, int | None]:
    """Return the tries left of each slot with a boot image; None for a good slot."""
    return {slot: left for slot, (left, _) in read_counters(disk).items()}


def uses_only_its_own_disk(device: Device) -> None:
    """Assert that there are two disks, and that everything is on the booted one, not on the first one."""
    virtio = device.versions.board.qemu.disk == "virtio"
    booted, other = ("vda", "nvme0n1") if virtio else ("mmcblk0", "sda")
    assert {booted, other} <= second_disk.list_disks(device.node)
    used = second_disk.disks_in_use(device.node)
    assert set(used) - UBOOT_USES == USES and set(used.values()) == {booted}, used
