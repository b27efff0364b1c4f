"""Which slot the boot loader starts, and how that is changed. A power cut at any moment must leave a valid choice.

The ESP is a folder here. Two files with equal contents stand for two names of the same blocks (hard links), which is
what a power cut during a rename on FAT leaves.
"""

import os
from collections import Counter as Count
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuild.agent.__main__ import main
from osbuild.agent.boot.loader import BootLoader
from osbuild.agent.boot.systemd_boot import SystemdBootLoader
from osbuild.agent.boot.uboot import UBootLoader
from osbuild.agent.commands import backend
from osbuild.agent.commands.status import collect_status
from osbuild.agent.system import System
from osbuild.shared import uboot_state
from osbuild.shared.uboot_state import BootCounter, UBootState
from osbuild.shared.uefi_entries import choose_slot, parse_entry_name
from tests.agent.test_health import Device
from tests.shared.test_uboot_state import partition

Files = dict[str, str]
Change = Callable[[BootLoader, System], None]


def write_files(folder: Path, files: Files) -> None:
    """Make `folder` contain exactly these files. Files with the same text are hard links to one file."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    first: dict[str, Path] = {}
    for name, text in files.items():
        if text and text in first:
            os.link(first[text], folder / name)
        else:
            first[text] = folder / name
            first[text].write_text(text)


def read_files(folder: Path) -> Files:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def cuts(before: Files, after: Files) -> Iterator[Files]:
    """The states after a power cut during a rename, in the order in which Linux writes (fs/fat/namei_vfat.c)."""
    yield before
    (old,), (new,) = set(before) - set(after), set(after) - set(before)
    yield {**before, new: ""}
    yield {**before, new: before[old]}
    yield after


def no_block_is_freed_twice(before: Files, after: Files) -> bool:
    names, left = Count(filter(None, before.values())), Count(filter(None, after.values()))
    return all(left[text] in (0, count) for text, count in names.items() if count > 1)


def activate(slot: str) -> Change:
    return lambda flow, system: flow.switch_to(system, slot)


def reject(slot: str) -> Change:
    return lambda flow, system: flow.reject(system, slot)


def bless(slot: str) -> Change:
    return lambda flow, system: flow.bless(system, slot)


@pytest.fixture
def pc(tmp_path: Path) -> Device:
    return Device(tmp_path)


def entries(device: Device) -> Path:
    return device.root / "efi/EFI/Linux"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["edge-1-a+3.efi"], "a"),
        (["edge-1-a.efi", "edge-2-b+3.efi"], "b"),
        (["edge-9-a.efi", "edge-10-b.efi"], "b"),
        (["edge-10-a+1-2.efi", "edge-9-b.efi"], "a"),
        (["edge-1-a.efi", "edge-2-b+0-3.efi"], "a"),
        (["edge-1-a+0-3.efi", "edge-2-b+0-3.efi"], "b"),
        (["edge-1-a.efi", "edge-2-b.efi.staged", "edge-b.efi.staged"], "a"),
        (["edge-1-a.efi", "edge-3-a+0-3.efi", "edge-2-b.efi"], "b"),
        (["edge-a.efi", "edge-1-b.efi"], "b"),
        (["edge-1-A.EFI"], "a"),
        ([], None),
    ],
)
def test_the_highest_generation_that_has_a_try_left_is_next(names: list[str], expected: str | None) -> None:
    assert choose_slot([entry for name in names if (entry := parse_entry_name(name))]) == expected


FIRST = {"edge-1-a.efi": "A", "edge-b.efi.staged": "B"}
SECOND = {"edge-3-a.efi": "A", "edge-4-b.efi": "B"}
CHANGES = {
    "first update": (FIRST, activate("b"), {"edge-1-a.efi": "A", "edge-2-b+3.efi": "B"}),
    "update of a slot on trial": (
        {"edge-1-a+2-1.efi": "A", "edge-b.efi.staged": "B"}, activate("b"),
        {"edge-1-a+2-1.efi": "A", "edge-2-b+3.efi": "B"},
    ),
    "rollback": (SECOND, activate("a"), {"edge-4-b.efi": "B", "edge-5-a+3.efi": "A"}),
    "fresh tries": (
        {"edge-1-a.efi": "A", "edge-2-b+1-2.efi": "B"}, activate("b"), {"edge-1-a.efi": "A", "edge-3-b+3.efi": "B"},
    ),
    "a slot without tries": (
        {"edge-1-a.efi": "A", "edge-2-b+0-3.efi": "B"}, activate("b"), {"edge-1-a.efi": "A", "edge-3-b+3.efi": "B"},
    ),
    "a withdrawn switch": (
        {"edge-3-a.efi": "A", "edge-4-b+3.efi": "B"}, activate("a"), {"edge-4-b+3.efi": "B", "edge-5-a+3.efi": "A"},
    ),
    "rejection": (SECOND, reject("b"), {"edge-3-a.efi": "A", "edge-4-b+0-0.efi": "B"}),
    "rejection on trial": (
        {"edge-3-a.efi": "A", "edge-4-b+1-2.efi": "B"}, reject("b"), {"edge-3-a.efi": "A", "edge-4-b+0-2.efi": "B"},
    ),
    "rejection of a staged image": (FIRST, reject("b"), {"edge-1-a.efi": "A", "edge-b.efi.spare": "B"}),
    "a good boot": (
        {"edge-1-a.efi": "A", "edge-2-b+2-1.efi": "B"}, bless("b"), {"edge-1-a.efi": "A", "edge-2-b.efi": "B"},
    ),
    "a good boot on the last try": ({"edge-1-a+0-3.efi": "A"}, bless("a"), {"edge-1-a.efi": "A"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_power_cut_the_old_or_new_choice_is_in_effect_and_the_change_can_be_repeated(
    pc: Device, name: str
) -> None:
    before, change, after = CHANGES[name]
    flow, folder = SystemdBootLoader(), entries(pc)
    write_files(folder, before)
    old_choice = flow.next_slot(pc.system)
    change(flow, pc.system)
    assert read_files(folder) == after
    becomes = flow.next_slot(pc.system)
    for cut in cuts(before, after):
        write_files(folder, cut)
        assert flow.next_slot(pc.system) in (old_choice, becomes)
        assert {entry.slot for entry in flow.read_entries(pc.system)} <= {"a", "b"}
        change(flow, pc.system)
        files = read_files(folder)
        assert no_block_is_freed_twice(cut, files), cut
        assert flow.next_slot(pc.system) == becomes, cut
        lost = {text for text in before.values() if text not in files.values()}
        # Only a slot that is rejected a second time may lose its boot image.
        assert lost <= ({"B"} if name.startswith("rejection") else set()), cut
        change(flow, pc.system)
        assert flow.next_slot(pc.system) == becomes


@pytest.mark.parametrize(
    ("files", "slot"), [({"edge-1-a.efi": "A"}, "a"), ({"edge-1-a.efi": "A", "edge-2-b+3.efi": "B"}, "b")]
)
def test_switching_to_the_slot_that_is_next_already_changes_nothing(pc: Device, files: Files, slot: str) -> None:
    write_files(entries(pc), files)
    SystemdBootLoader().switch_to(pc.system, slot)
    assert read_files(entries(pc)) == files


def test_updates_and_a_rollback_never_use_a_generation_twice(pc: Device) -> None:
    folder, flow = entries(pc), SystemdBootLoader()
    write_files(folder, {"edge-1-a.efi": "1"})
    for text, slot in (("2", "b"), ("3", "a"), ("4", "b")):
        flow.reject(pc.system, slot)
        others = {name: content for name, content in read_files(folder).items() if f"-{slot}" not in name}
        write_files(folder, {**others, f"edge-{slot}.efi.staged": text})  # as the bundle's hook does
        flow.switch_to(pc.system, slot)
        assert flow.next_slot(pc.system) == slot
        flow.bless(pc.system, slot)
    flow.switch_to(pc.system, "a")
    assert read_files(folder) == {"edge-4-b.efi": "4", "edge-5-a+3.efi": "3"}


@pytest.mark.parametrize("files", [{"edge-1-a.efi": "A"}, {"edge-1-a.efi": "A", "edge-2-b+3.efi": ""}, {}])
def test_a_slot_without_a_boot_image_can_be_neither_chosen_nor_blessed(pc: Device, files: Files) -> None:
    write_files(entries(pc), files)
    for change in (activate("b"), bless("b")):
        with pytest.raises(FileNotFoundError, match="no boot image"):
            change(SystemdBootLoader(), pc.system)
    SystemdBootLoader().reject(pc.system, "b")
    assert read_files(entries(pc)) == files


def test_an_unreadable_esp_is_not_treated_as_empty(pc: Device) -> None:
    pc.put("efi/EFI/Linux", "a file where a folder should be")
    assert (SystemdBootLoader().read_entries(pc.system), SystemdBootLoader().next_slot(pc.system)) == ([], None)
    for change in (activate("b"), bless("b"), reject("b")):
        with pytest.raises(NotADirectoryError):
            change(SystemdBootLoader(), pc.system)


def test_a_staged_image_cannot_be_chosen_after_a_rejection(pc: Device) -> None:
    spare = {"edge-b.efi.spare": "B"}
    for files, left in ((FIRST, spare), ({**FIRST, **spare}, {}), ({**FIRST, "edge-2-b.efi": "B"}, {})):
        write_files(entries(pc), files)
        SystemdBootLoader().reject(pc.system, "b")
        assert read_files(entries(pc)) == {"edge-1-a.efi": "A", **left}
        with pytest.raises(FileNotFoundError):
            SystemdBootLoader().switch_to(pc.system, "b")


def test_status_distinguishes_a_rejected_slot_from_a_failed_one(pc: Device) -> None:
    write_files(entries(pc), {"edge-1-a.efi": "A", "edge-2-b+0-0.efi": "B"})
    assert collect_status(pc.system)["why"] == "slot a is good; slot b was rejected"


# --- U-Boot


@pytest.fixture
def pi(tmp_path: Path) -> Device:
    device = Device(tmp_path)
    device.put("usr/lib/edge-osbuild/image.json", '{"name": "minimal", "version": "1.0.0", "boot": "uboot"}')
    for number, name in enumerate(("esp", "uboot-env", "root-a"), 1):
        device.put(f"sys/devices/mmcblk0/mmcblk0p{number}/uevent", f"DEVNAME=mmcblk0p{number}\nPARTNAME={name}\n")
    (tmp_path / "sys/block/dm-0/slaves").mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/slaves/mmcblk0p3").symlink_to(tmp_path / "sys/devices/mmcblk0/mmcblk0p3")
    (tmp_path / "dev").mkdir(exist_ok=True)
    return device


def state(device: Device) -> UBootState:
    return uboot_state.read_state(device.root / "dev/mmcblk0p2")


GOOD = BootCounter(None)
AB, BA = ("a", "b"), ("b", "a")
IMAGES = {"edge-a.img": "A", "edge-b.img": "B"}
STAGED = {"edge-a.img": "A", "edge-b.img.staged": "B"}


@pytest.mark.parametrize(
    ("order", "counters", "images", "expected"),
    [
        (AB, {}, "ab", "a"),
        (BA, {"a": GOOD, "b": BootCounter(2, 1)}, "ab", "b"),
        (BA, {"a": GOOD, "b": BootCounter(0, 3)}, "ab", "a"),
        (BA, {"a": BootCounter(0, 3), "b": BootCounter(0, 3)}, "ab", "b"),
        (BA, {"a": GOOD, "b": GOOD}, "a", "a"),
        (AB, {}, "", None),
    ],
)
def test_u_boot_takes_the_first_of_its_order_that_has_a_try_left(
    order: tuple[str, ...], counters: dict[str, BootCounter], images: str, expected: str | None
) -> None:
    assert UBootState(1, order, counters).next_slot(set(images)) == expected


PI_CHANGES = {
    "first update": (STAGED, UBootState(1, AB, {"a": GOOD, "b": BootCounter(0, 0)}), activate("b"), BA,
    BootCounter(3)),
    "no slot was rejected before": (STAGED, UBootState(1, BA, {"a": GOOD, "b": GOOD}), activate("b"), BA,
    BootCounter(3)),
    "rollback": (IMAGES, UBootState(1, AB, {"a": GOOD, "b": GOOD}), activate("b"), BA, BootCounter(3)),
    "fresh tries": (IMAGES, UBootState(1, BA, {"a": GOOD, "b": BootCounter(1, 2)}), activate("b"), BA, BootCounter(3)),
    "without tries before": (IMAGES, UBootState(1, BA, {"a": GOOD, "b": BootCounter(0, 3)}), activate("b"), BA,
    BootCounter(3)),
    "a good choice": (IMAGES, UBootState(1, BA, {"a": GOOD, "b": GOOD}), activate("b"), BA, GOOD),
    "rejection": (IMAGES, UBootState(1, BA, {"a": GOOD, "b": GOOD}), reject("b"), BA, BootCounter(0)),
    "rejection of a staged image": (STAGED, UBootState(1, AB, {"a": GOOD, "b": GOOD}), reject("b"), AB, BootCounter(0)),
    "rejection on trial": (IMAGES, UBootState(1, BA, {"a": GOOD, "b": BootCounter(2, 1)}), reject("b"), BA,
    BootCounter(0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PI_CHANGES)
def test_after_a_power_cut_u_boot_starts_the_old_or_the_new_choice(pi: Device, name: str) -> None:
    files, old, change, order, counter = PI_CHANGES[name]
    flow, folder, device = UBootLoader(), pi.root / "efi", pi.root / "dev/mmcblk0p2"
    partition(device, old)
    write_files(folder, files)
    old_choice = flow.next_slot(pi.system)
    change(flow, pi.system)
    new, becomes, after = state(pi), flow.next_slot(pi.system), read_files(folder)
    assert (new.order, new.counter("b")) == (order, counter)
    assert after == ({"edge-a.img": "A", "edge-b.img.spare": "B"} if "staged" in name else IMAGES)
    moments = cuts(files, after) if files != after else iter([files])
    # The files change first, with the boot state of that moment. Then the boot state changes; its new copy is torn
    # or complete.
    halfway = old.with_counter("b", BootCounter(0)) if files != after else old
    torn = new.encode()[:2048] + b"\xff" * 2048
    states: list[tuple[Files, UBootState | bytes]] = [
        *((cut, halfway) for cut in moments),
        (after, torn),
        (after, new),
    ]
    for cut, copy in states:
        partition(device, old, copy)
        write_files(folder, cut)
        if name != "no slot was rejected before":
            assert flow.next_slot(pi.system) in (old_choice, becomes), cut
        change(flow, pi.system)
        assert no_block_is_freed_twice(cut, read_files(folder))
        assert flow.next_slot(pi.system) == becomes
        assert state(pi).order == order
        assert set(read_files(folder).values()) >= ({"A"} if name.startswith("rejection") else {"A", "B"})


def test_a_slot_without_a_boot_image_cannot_be_chosen_and_the_boot_state_is_unchanged(pi: Device) -> None:
    old = UBootState(1, AB, {"a": GOOD, "b": BootCounter(0)})
    partition(pi.root / "dev/mmcblk0p2", old)
    for files in ({"edge-a.img": "A"}, {"edge-a.img": "A", "edge-b.img": ""}):
        write_files(pi.root / "efi", files)
        with pytest.raises(FileNotFoundError, match="no boot image"):
            UBootLoader().switch_to(pi.system, "b")
        assert state(pi) == old


def test_a_staged_u_boot_image_cannot_be_chosen_after_a_rejection(pi: Device) -> None:
    for files, left in ((STAGED, {"edge-b.img.spare": "B"}), ({**IMAGES, "edge-b.img.staged": "B"}, {})):
        partition(pi.root / "dev/mmcblk0p2", UBootState(1, AB, {"a": GOOD, "b": GOOD}))
        write_files(pi.root / "efi", files)
        UBootLoader().reject(pi.system, "b")
        assert read_files(pi.root / "efi") == {"edge-a.img": "A", **left}
        assert state(pi).counter("b") == BootCounter(0)


# --- calls by RAUC


def ask(device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The output of the backend, or its exit status and error if it fails."""
    monkeypatch.setattr(backend, "System", lambda: device.system)
    status = main(["backend", *line.split()])
    printed = capsys.readouterr()
    return printed.out.strip() if status == 0 else f"{status} {printed.err.strip()}"


def test_rauc_can_read_and_change_the_boot_state(
    pc: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(line: str) -> str:
        return ask(pc, monkeypatch, capsys, line)

    write_files(entries(pc), {"edge-1-a.efi": "A", "edge-2-b+0-3.efi": "B"})
    assert [call(line) for line in ("get-current", "get-primary", "get-state a", "get-state b", "get-state c")] == [
        "a", "a", "good", "bad", "bad",
    ]  # fmt: skip
    assert call("set-primary b") == ""
    assert [call(line) for line in ("get-current", "get-primary", "get-state b")] == ["a", "b", "good"]
    assert call("set-state b bad") == call("set-state a good") == ""
    assert call("get-primary") == "a"
    assert read_files(entries(pc)) == {"edge-1-a.efi": "A", "edge-3-b+0-0.efi": "B"}


def test_a_failed_call_reports_the_reason_and_an_invalid_call_is_a_usage_error(
    pc: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(entries(pc), {"edge-1-a.efi": "A"})
    for line in ("set-state a best", "set-primary", "get-primary a", "set-primary ../a", "set-state root.0 bad"):
        assert ask(pc, monkeypatch, capsys, line).startswith("2 edge-agent: ")
    assert ask(pc, monkeypatch, capsys, "set-primary b") == "1 edge-agent: slot b: the slot has no boot image"
    write_files(entries(pc), {})
    assert ask(pc, monkeypatch, capsys, "get-primary").startswith("1 edge-agent: ")
