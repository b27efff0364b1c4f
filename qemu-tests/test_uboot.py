"""U-Boot, the script that chooses a slot, and the boot state, on the emulated boards.

Most boot images here are intact but have no kernel, so that the script is tested within seconds: a slot is started and
fails at once, and the script tries the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.machines import MachineFactory

from osbuild.boot.uboot import render_script
from osbuild.config.board import Board
from osbuild.formats import gpt, uimage
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.deadline import Deadline
from osbuild.qemu.machine import Machine
from osbuild.seed import esp_seed
from osbuild.shared import uboot_state
from osbuild.shared.uboot_state import COPY_OFFSETS, COPY_SIZE, BootCounter, UBootState, decode_state, newest_state

END = "nothing can be started"
KERNEL = r"\[ +\d+\.\d{6}\] "
SECONDS = 180
BOOT_SECONDS = 900

pytestmark = pytest.mark.matrix("loader")


@dataclass(frozen=True)
class SdCard:
    """A board's card: a file that a machine writes to."""

    path: Path
    board: Board

    def partition(self, name: str) -> gpt.Partition:
        return next(partition for partition in gpt.read_table(self.path).partitions if partition.name == name)

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the ESP."""
        source = self.path.with_name("file")
        source.write_bytes(data)
        image = f"{self.path}@@{self.partition('esp').offset}"
        run_command(
            esp_seed.find_mtools(Cache())(["mcopy", "-o", "-i", image, str(source), f"::{name}"], [self.path.parent])
        )

    def read(self, name: str) -> bytes:
        """Read a file at the top of the ESP."""
        with self.path.open("rb") as file:
            fat = Fat(file, self.partition("esp").offset, "card")
            return fat.read(next(entry for entry in fat.walk() if str(entry.path) == name))

    def slot(self, name: str) -> None:
        """Replace a slot's boot image with one without a kernel."""
        parts = [b"no kernel", b"no initrd", b"bootargs=edge\nedge_trees=none\n", b"no tree"]
        self.put(f"edge-{name}.img", uimage.pack_multi(parts, self.board.architecture, f"edge-{name}", time=0))

    def damage(self, name: str) -> None:
        """Change one byte of a slot's boot image."""
        data = bytearray(self.read(f"edge-{name}.img"))
        data[-1] ^= 1
        self.put(f"edge-{name}.img", bytes(data))

    def write(self, *copies: UBootState | bytes) -> None:
        """Write both copies of the boot state."""
        with self.path.open("r+b") as file:
            for offset, copy in zip(COPY_OFFSETS, copies, strict=True):
                file.seek(self.partition(uboot_state.PARTITION).offset + offset)
                file.write((copy if isinstance(copy, bytes) else copy.encode()).ljust(COPY_SIZE, b"\0"))

    def copies(self) -> list[UBootState | None]:
        states = []
        with self.path.open("rb") as file:
            for offset in COPY_OFFSETS:
                file.seek(self.partition(uboot_state.PARTITION).offset + offset)
                states.append(decode_state(file.read(COPY_SIZE)))
        return states


@pytest.fixture
def built_card(tmp_path: Path, board: Board, image: Callable[[str], Path]) -> SdCard:
    """A card with the board's image as it was built."""
    card = SdCard(tmp_path / "card.img", board)
    run_command(["cp", "--sparse=always", image("minimal") / "disk.img", card.path])
    size = card.path.stat().st_size
    with card.path.open("r+b") as file:
        file.truncate(1 << (size - 1).bit_length())  # QEMU accepts only the sizes of real cards
    return card


@pytest.fixture
def card(built_card: SdCard) -> SdCard:
    built_card.slot("a")
    built_card.slot("b")
    return built_card


@pytest.fixture
def boot_messages(card: SdCard, machine: MachineFactory) -> Callable[[], list[str]]:
    """Powers on until nothing more can be started, and returns the messages of the script."""

    def power_on() -> list[str]:
        booted: Machine = machine(MachineConfig(board=card.board, disks=(card.path,), network=None))
        booted.console.wait_for(END, SECONDS)
        booted.power_cut()
        text = booted.console.text.partition(END)[0]
        return [line.partition("edge-osbuild: ")[2] for line in text.splitlines() if line.startswith("edge-osbuild: ")]

    return power_on


GOOD = BootCounter(None)


def test_slots_are_started_in_their_order_and_a_try_is_written_down_before(
    card: SdCard, boot_messages: Callable[[], list[str]]
) -> None:
    card.write(UBootState(8, ("b", "a"), {"a": GOOD, "b": BootCounter(2, 1)}), UBootState(7))
    lines = boot_messages()
    assert lines[:3] == ["starting slot B edge.tries=1-2", "slot B did not start", "starting slot A"]
    # Afterwards the script tries every slot: three writes, alternately to both copies. A good slot stays good.
    first, second = card.copies()
    assert second is not None
    assert newest_state([first, second]).counters == {"a": GOOD, "b": BootCounter(1, 2)}
    assert {first.generation if first else 0, second.generation} == {10, 11}


def test_a_slot_without_tries_is_passed_over(card: SdCard, boot_messages: Callable[[], list[str]]) -> None:
    state = UBootState(0xF, ("a", "b"), {"a": BootCounter(0, 3), "b": GOOD})
    card.write(UBootState(1), state)
    assert boot_messages()[0] == "starting slot B"


@pytest.mark.parametrize(
    "garbage",
    [bytes(COPY_SIZE), b"\xff" * COPY_SIZE, UBootState(99, ("a", "b")).encode()[:50]],
    ids=["zeros", "erased", "newer-but-cut-off"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_torn_copy_of_the_state_does_not_matter(
    card: SdCard, boot_messages: Callable[[], list[str]], garbage: bytes, place: int
) -> None:
    state = UBootState(3, ("b", "a"), {"a": GOOD, "b": BootCounter(1, 2)})
    card.write(*((garbage, state) if place == 0 else (state, garbage)))
    assert boot_messages()[:3] == ["starting slot B edge.tries=0-3", "slot B did not start", "starting slot A"]
    assert all(card.copies())


def test_with_both_copies_gone_slots_are_new(card: SdCard, boot_messages: Callable[[], list[str]]) -> None:
    card.write(b"\xff" * COPY_SIZE, bytes(COPY_SIZE))
    assert boot_messages()[:4] == [
        "both copies of the boot state are damaged, starting with a new one",
        "starting slot A edge.tries=2-1", "slot A did not start", "starting slot B edge.tries=2-1",
    ]  # fmt: skip
    assert newest_state(card.copies()).counters == {"a": BootCounter(2, 1), "b": BootCounter(2, 1)}


def test_a_damaged_image_is_passed_over_and_keeps_its_tries(
    card: SdCard, boot_messages: Callable[[], list[str]]
) -> None:
    card.damage("a")
    card.write(UBootState(4, ("a", "b"), {"a": BootCounter(3), "b": GOOD}), UBootState(3))
    assert boot_messages()[:2] == ["the boot image of slot A is missing or damaged", "starting slot B"]
    assert newest_state(card.copies()).counter("a") == BootCounter(3)


def test_without_any_try_left_slots_take_turns(card: SdCard, boot_messages: Callable[[], list[str]]) -> None:
    none = {"a": BootCounter(0, 3), "b": BootCounter(0, 3)}
    card.write(UBootState(4, ("a", "b"), none), UBootState(3))
    message = "no slot has a try left, starting slot {} anyway"
    assert boot_messages()[0] == message.format("A")
    assert newest_state(card.copies()).counters == none
    card.write(UBootState(4, ("b", "a"), none), UBootState(3))
    assert boot_messages()[0] == message.format("B")


def test_without_u_boots_own_settings_the_script_is_found_all_the_same(
    card: SdCard, boot_messages: Callable[[], list[str]]
) -> None:
    card.put("uboot.env", b"\xff" * card.board.uboot.environment_size)
    card.write(UBootState(4, ("a", "b"), {"a": GOOD, "b": GOOD}), UBootState(3))
    assert boot_messages()[:3] == ["starting slot A", "slot A did not start", "starting slot B"]


def test_a_slot_that_fails_after_its_kernel_has_started_falls_back(built_card: SdCard, machine: MachineFactory) -> None:
    """Slot B has slot A's kernel but no root: the initrd gives up, after its last try was recorded."""
    boot_image = uimage.parse_multi(built_card.read("edge-a.img"), "edge-a.img")
    arguments = boot_image.parts[2].replace(b"edge.slot=a ", b"edge.slot=b ")
    assert arguments != boot_image.parts[2]
    parts = [*boot_image.parts[:2], arguments, *boot_image.parts[3:]]
    built_card.put("edge-b.img", uimage.pack_multi(parts, built_card.board.architecture, "edge-b", time=0))
    built_card.write(UBootState(4, ("b", "a"), {"a": BootCounter(3), "b": BootCounter(1, 2)}), UBootState(3))
    booted = machine(MachineConfig(board=built_card.board, disks=(built_card.path,), network=None))
    booted.console.wait_for("starting slot B edge.tries=0-3", SECONDS)
    booted.console.wait_for("edge-init: FAILED: the root file system of slot b cannot be mounted", SECONDS)
    booted.console.wait_for("starting slot A edge.tries=2-1", SECONDS)
    booted.console.wait_for("boot complete: minimal .* slot a", BOOT_SECONDS)
    deadline = Deadline(SECONDS)
    while newest_state(built_card.copies()).counter("a") != GOOD:
        assert not deadline.passed, "the good boot was not marked"
        deadline.pause()
    assert newest_state(built_card.copies()).counter("b") == BootCounter(0, 3)


def test_a_kernel_on_trial_is_guarded_by_the_watchdog_and_the_last_resort_is_not(
    built_card: SdCard, machine: MachineFactory
) -> None:
    """The script as real boards run it. QEMU's watchdog resets at once, so a guarded kernel prints nothing."""
    board = replace(built_card.board, uboot=replace(built_card.board.uboot, quirks=""))
    built_card.put("boot.scr", uimage.pack_script(render_script(board), board.architecture, "edge-osbuild", time=0))
    built_card.write(UBootState(4, ("a", "b"), {"a": BootCounter(2, 1), "b": BootCounter(0, 3)}), UBootState(3))
    booted = machine(MachineConfig(board=built_card.board, disks=(built_card.path,), network=None))
    for tries in ("1-2", "0-3"):
        booted.console.wait_for(f"starting slot A edge.tries={tries}", SECONDS)
        booted.wait_for_event("RESET", SECONDS, matching={"reason": "guest-reset"})
    match = booted.console.wait_for(f"no slot has a try left, starting slot A anyway|{KERNEL}", SECONDS)
    assert "anyway" in match[0], "a kernel on trial was started without the watchdog"
    booted.console.wait_for(KERNEL, SECONDS)
