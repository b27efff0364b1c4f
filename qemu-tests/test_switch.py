"""Slots of a built image: written by RAUC over the network, switched to and back; and the watchdog's resets."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.faulty_server import Site
from support.machines import MachineFactory
from support.nodes import BOOT, CONNECT, USER, Node, make_seed

from osbuild.bundle import pack, signing, source
from osbuild.config.board import Board
from osbuild.host.cache import Cache
from osbuild.keys.development import signing_keys
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.deadline import Deadline
from osbuild.qemu.files import DISK
from osbuild.qemu.ssh import KeyPair
from osbuild.sandbox.bundle_tools import bundle_tools

MEMORY = 1024 * 2**20
BACKEND = "/usr/lib/edge-osbuild/rauc-backend"
HANG = 300.0  # seconds from a hang to the reset: the initrd's timeout, and the watchdog's own

pytestmark = pytest.mark.matrix("watchdog")


@pytest.fixture
def node(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> Callable[..., Node]:
    def power_on(**options: Any) -> Node:
        seed = make_seed("minimal", "switched", key, tmp_path / "seed.iso")
        disk = image("minimal") / "disk.img"
        booted = machine(MachineConfig(board=board, image=disk, memory=MEMORY, media=(seed,), **options))
        return Node(booted, booted.guest(USER, key))

    return power_on


def wait_good_boot(node: Node) -> str:
    """Wait for a complete and good boot, and return its slot."""
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    node.wait_good()
    return str(node.status()["slot"])


def boot_entries(node: Node, board: Board) -> list[str]:
    folder = "/efi/EFI/Linux" if board.boot == "uefi" else "/efi"
    return [name for name in node.run(f"ls {folder}").split() if name.startswith("edge-")]


def reboot(node: Node) -> str:
    node.machine.console.skip()
    node.guest.reboot(BOOT)
    return wait_good_boot(node)


@pytest.mark.slow  # test_update does the same with the edge agent
def test_rauc_writes_the_other_slot_it_is_booted_when_chosen_and_can_be_taken_back(
    board: Board, image: Callable[[str], Path], node: Callable[..., Node], tmp_path: Path
) -> None:
    cache, path = Cache(), tmp_path / "bundle.raucb"
    bundle = pack.make_bundle(
        source.read_build(image("minimal")), path, signing.prepare_signing(signing_keys(), bundle_tools(cache)), cache
    )
    booted = node()
    assert wait_good_boot(booted) == "a"
    with Site(tmp_path) as site:
        booted.run(f"rauc install {site.url(path.name)}", timeout=1200)
        assert site.journal.total < bundle.size / 20, "the other slot has these blocks already"
    assert [booted.run(f"{BACKEND} {call}").strip() for call in ("get-primary", "get-state a", "get-state b")] == [
        "a", "good", "bad",
    ]  # fmt: skip
    uefi = board.boot == "uefi"
    assert boot_entries(booted, board) == (
        ["edge-1-a.efi", "edge-b.efi.staged"] if uefi else ["edge-a.img", "edge-b.img.staged"]
    )
    booted.run("rauc status mark-active other")
    assert booted.run(f"{BACKEND} get-primary").strip() == "b"
    assert reboot(booted) == "b"
    assert boot_entries(booted, board) == (["edge-1-a.efi", "edge-2-b.efi"] if uefi else ["edge-a.img", "edge-b.img"])
    status = json.loads(booted.run("rauc status --output-format=json"))
    assert (status["booted"], status["boot_primary"]) == ("b", "root.1")
    booted.run("rauc status mark-active other")
    assert reboot(booted) == "a"
    assert booted.status()["boot"]["state"] == "good"
    assert boot_entries(booted, board) == (["edge-2-b.efi", "edge-3-a.efi"] if uefi else ["edge-a.img", "edge-b.img"])
    assert booted.run_failing(f"su {USER} -s /bin/sh -c 'rauc status mark-active other'"), "only root chooses"


@pytest.mark.slow  # two and a half minutes each
@pytest.mark.parametrize("own", [True, False], ids=["of the hardware", "of the kernel"])
def test_a_system_that_hangs_is_reset_by_the_watchdog_that_the_initrd_has_started(
    board: Board, node: Callable[..., Node], own: bool
) -> None:
    if own and (board.name != "x86_64"):
        pytest.skip("Debian's kernels for this board have no driver for the watchdog that QEMU can give it")
    booted = node(watchdog=own)
    wait_good_boot(booted)
    watchdog = "/sys/class/watchdog/watchdog0"
    assert booted.run(f"cat {watchdog}/identity").strip() == ("i6300ESB timer" if own else "Software Watchdog")
    assert booted.run(f"cat {watchdog}/state {watchdog}/timeout").split() == ["active", "60"]
    booted.guest.run("sudo sh -c 'echo 1 > /sys/fs/cgroup/init.scope/cgroup.freeze'", check=False, timeout=20)
    booted.machine.wait_for_event("RESET", HANG)
    booted.machine.console.skip()
    booted.guest.disconnect()
    assert wait_good_boot(booted) == "a", "and a slot that was good still is"


@pytest.mark.slow  # it waits for minutes until the initrd's timeout
def test_a_hang_before_the_root_is_there_is_reset_too(
    board: Board, image: Callable[[str], Path], node: Callable[..., Node]
) -> None:
    if board.boot != "uefi":
        pytest.skip("the card of an emulated Pi can't be slowed down")
    booted = node()
    wait_kernel_read(booted, (image("minimal") / "edge-a.efi").stat().st_size)
    throttle_disk(booted, 1)
    booted.machine.wait_for_event("RESET", HANG)
    throttle_disk(booted, 0)
    booted.machine.console.skip()
    assert wait_good_boot(booted) == "a"


def wait_kernel_read(node: Node, size: int) -> None:
    """Wait until the firmware has read a boot image of `size` bytes and stops reading: the kernel starts."""
    deadline, bytes_read, since = Deadline(BOOT), 0, time.monotonic()
    while bytes_read < size or time.monotonic() - since < 0.5:
        assert not deadline.passed, f"{bytes_read} bytes were read"
        deadline.pause(0.05)
        (disk,) = [
            statistics
            for statistics in node.machine.qmp("query-blockstats")
            if f"dev-{DISK}" in statistics.get("qdev", "")
        ]
        if disk["stats"]["rd_bytes"] != bytes_read:
            bytes_read, since = disk["stats"]["rd_bytes"], time.monotonic()


def throttle_disk(node: Node, rate: int) -> None:
    """Limit the disk to `rate` bytes per second; 0 removes the limit."""
    command = f"block_set_io_throttle /machine/peripheral/dev-{DISK}/virtio-backend {rate} 0 0 0 0 0"
    output = node.machine.qmp("human-monitor-command", command_line=command)
    assert not output.strip(), output
