"""Slots of a built image: written by RAUC over the network, chosen, taken back; and what a watchdog does for them."""

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
HANG = 300.0  # seconds from a hang to the reset: the initrd's patience, and the time of the watchdog itself

pytestmark = pytest.mark.matrix("watchdog")


@pytest.fixture
def node(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> Callable[..., Node]:
    def power_on(**more: Any) -> Node:
        seed = make_seed("minimal", "switched", key, tmp_path / "seed.iso")
        disk = image("minimal") / "disk.img"
        made = machine(MachineConfig(board=board, image=disk, memory=MEMORY, media=(seed,), **more))
        return Node(made, made.guest(USER, key))

    return power_on


def complete(node: Node) -> str:
    """Wait for a complete boot that was found good; the slot."""
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    node.wait_good()
    return str(node.status()["slot"])


def entries(node: Node, board: Board) -> list[str]:
    folder = "/efi/EFI/Linux" if board.boot == "uefi" else "/efi"
    return [name for name in node.run(f"ls {folder}").split() if name.startswith("edge-")]


def restarted(node: Node) -> str:
    node.machine.console.skip()
    node.guest.reboot(BOOT)
    return complete(node)


@pytest.mark.slow  # test_update does the same by the agent
def test_rauc_writes_the_other_slot_it_is_booted_when_chosen_and_can_be_taken_back(
    board: Board, image: Callable[[str], Path], node: Callable[..., Node], tmp_path: Path
) -> None:
    cache, path = Cache(), tmp_path / "bundle.raucb"
    made = pack.make_bundle(
        source.read_build(image("minimal")), path, signing.prepare_signing(signing_keys(), bundle_tools(cache)), cache
    )
    on = node()
    assert complete(on) == "a"
    with Site(tmp_path) as site:
        on.run(f"rauc install {site.url(path.name)}", timeout=1200)
        assert site.journal.total < made.size / 20, "the other slot has these blocks already"
    assert [on.run(f"{BACKEND} {call}").strip() for call in ("get-primary", "get-state a", "get-state b")] == [
        "a", "good", "bad",
    ]  # fmt: skip
    uefi = board.boot == "uefi"
    assert entries(on, board) == (
        ["edge-1-a.efi", "edge-b.efi.staged"] if uefi else ["edge-a.img", "edge-b.img.staged"]
    )
    on.run("rauc status mark-active other")
    assert on.run(f"{BACKEND} get-primary").strip() == "b"
    assert restarted(on) == "b"
    assert entries(on, board) == (["edge-1-a.efi", "edge-2-b.efi"] if uefi else ["edge-a.img", "edge-b.img"])
    found = json.loads(on.run("rauc status --output-format=json"))
    assert (found["booted"], found["boot_primary"]) == ("b", "root.1")
    on.run("rauc status mark-active other")
    assert restarted(on) == "a"
    assert on.status()["boot"]["state"] == "good"
    assert entries(on, board) == (["edge-2-b.efi", "edge-3-a.efi"] if uefi else ["edge-a.img", "edge-b.img"])
    assert on.run_failing(f"su {USER} -s /bin/sh -c 'rauc status mark-active other'"), "only root chooses"


@pytest.mark.slow  # two and a half minutes each
@pytest.mark.parametrize("own", [True, False], ids=["of the hardware", "of the kernel"])
def test_a_system_that_hangs_is_reset_by_the_watchdog_that_the_initrd_has_started(
    board: Board, node: Callable[..., Node], own: bool
) -> None:
    if own and (board.name != "x86_64"):
        pytest.skip("Debian's kernels for this board have no driver for the watchdog that QEMU can give it")
    on = node(watchdog=own)
    complete(on)
    where = "/sys/class/watchdog/watchdog0"
    assert on.run(f"cat {where}/identity").strip() == ("i6300ESB timer" if own else "Software Watchdog")
    assert on.run(f"cat {where}/state {where}/timeout").split() == ["active", "60"]
    on.guest.run("sudo sh -c 'echo 1 > /sys/fs/cgroup/init.scope/cgroup.freeze'", check=False, timeout=20)
    on.machine.wait_for_event("RESET", HANG)
    on.machine.console.skip()
    on.guest.disconnect()
    assert complete(on) == "a", "and a slot that was good still is"


@pytest.mark.slow  # it waits for minutes until patience ends
def test_a_hang_before_the_root_is_there_is_reset_too(
    board: Board, image: Callable[[str], Path], node: Callable[..., Node]
) -> None:
    if board.boot != "uefi":
        pytest.skip("the card of an emulated Pi can't be slowed down")
    on = node()
    loaded(on, (image("minimal") / "edge-a.efi").stat().st_size)
    slow(on, 1)
    on.machine.wait_for_event("RESET", HANG)
    slow(on, 0)
    on.machine.console.skip()
    assert complete(on) == "a"


def loaded(node: Node, size: int) -> None:
    """Wait until the firmware has read a boot file of `size` bytes, and nothing is read any more: the kernel starts."""
    deadline, seen, since = Deadline(BOOT), 0, time.monotonic()
    while seen < size or time.monotonic() - since < 0.5:
        assert not deadline.passed, f"{seen} bytes were read"
        deadline.pause(0.05)
        (disk,) = [each for each in node.machine.qmp("query-blockstats") if f"dev-{DISK}" in each.get("qdev", "")]
        if disk["stats"]["rd_bytes"] != seen:
            seen, since = disk["stats"]["rd_bytes"], time.monotonic()


def slow(node: Node, rate: int) -> None:
    """Let the disk read and write `rate` bytes a second; 0 is as fast as it can."""
    command = f"block_set_io_throttle /machine/peripheral/dev-{DISK}/virtio-backend {rate} 0 0 0 0 0"
    said = node.machine.qmp("human-monitor-command", command_line=command)
    assert not said.strip(), said
