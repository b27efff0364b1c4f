"""U-Boot, the script that chooses a slot, and the state that it counts with, on the boards themselves.

Slots here are images that are whole but hold no kernel, so that what the script does is seen within seconds: a slot is
started, comes back, and the next one gets its turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import MachineFactory

from osbuild import gpt
from osbuild.agent import slotstate
from osbuild.agent.slotstate import PLACES, SIZE, Counter, SlotState, decode, newest
from osbuild.board import Board
from osbuild.boot import uimage
from osbuild.cache import Cache
from osbuild.fat import Fat
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.machine import Machine
from osbuild.run import run
from osbuild.seed import esp

END = "nothing can be started"
SECONDS = 90


@dataclass(frozen=True)
class Card:
    """A copy of a board's image, whose slots hold no kernel, as a file that a machine writes to."""

    path: Path
    board: Board

    def partition(self, name: str) -> gpt.Partition:
        return next(part for part in gpt.read(self.path).partitions if part.name == name)

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the boot partition."""
        source = self.path.with_name("file")
        source.write_bytes(data)
        place = f"{self.path}@@{self.partition('esp').offset}"
        run(esp.mtools(Cache())(["mcopy", "-o", "-i", place, str(source), f"::{name}"], [self.path.parent]))

    def slot(self, name: str) -> None:
        parts = [b"no kernel", b"no initrd", b"bootargs=edge\nedge_trees=none\n", b"no tree"]
        self.put(f"edge-{name}.img", uimage.pack(parts, self.board.architecture, f"edge-{name}", time=0))

    def damage(self, name: str) -> None:
        """Change one byte of a slot's image."""
        with self.path.open("r+b") as file:
            fat = Fat(file, self.partition("esp").offset, "card")
            found = next(entry for entry in fat.walk() if str(entry.path) == f"edge-{name}.img")
            data = bytearray(fat.read(found))
        data[-1] ^= 1
        self.put(f"edge-{name}.img", bytes(data))

    def write(self, *copies: SlotState | bytes) -> None:
        """Set both copies of the state."""
        with self.path.open("r+b") as file:
            for place, copy in zip(PLACES, copies, strict=True):
                file.seek(self.partition(slotstate.PARTITION).offset + place)
                file.write((copy if isinstance(copy, bytes) else copy.encode()).ljust(SIZE, b"\0"))

    def copies(self) -> list[SlotState | None]:
        found = []
        with self.path.open("rb") as file:
            for place in PLACES:
                file.seek(self.partition(slotstate.PARTITION).offset + place)
                found.append(decode(file.read(SIZE)))
        return found


@pytest.fixture
def card(tmp_path: Path, board: Board, image: Callable[[str], Path]) -> Card:
    made = Card(tmp_path / "card.img", board)
    run(["cp", "--sparse=always", image("minimal") / "disk.img", made.path])
    size = made.path.stat().st_size
    with made.path.open("r+b") as file:
        file.truncate(1 << (size - 1).bit_length())  # as large as a real card: QEMU takes no other
    made.slot("a")
    made.slot("b")
    return made


@pytest.fixture
def starts(card: Card, machine: MachineFactory) -> Callable[[], list[str]]:
    """Power on until nothing more can be started; what the script said on the way."""

    def power_on() -> list[str]:
        on: Machine = machine(MachineConfig(board=card.board, disks=(card.path,), network=None))
        on.console.wait_for(END, SECONDS)
        on.power_cut()
        text = on.console.text.partition(END)[0]
        return [line.partition("edge-osbuild: ")[2] for line in text.splitlines() if line.startswith("edge-osbuild: ")]

    return power_on


GOOD = Counter(None)


def test_slots_are_started_in_their_order_and_a_try_is_written_down_before(
    card: Card, starts: Callable[[], list[str]]
) -> None:
    card.write(SlotState(8, ("b", "a"), {"a": GOOD, "b": Counter(2, 1)}), SlotState(7))
    said = starts()
    assert said[:3] == ["starting slot B edge.tries=1-2", "slot B did not start", "starting slot A"]
    # Then each all the same. A good slot stays good; the copy that did not count was written first.
    first, second = card.copies()
    assert second is not None
    assert newest([first, second]).counters == {"a": GOOD, "b": Counter(1, 2)}
    assert {first.generation if first else 0, second.generation} == {9, 10}


def test_a_slot_without_tries_is_passed_over(card: Card, starts: Callable[[], list[str]]) -> None:
    state = SlotState(0xF, ("a", "b"), {"a": Counter(0, 3), "b": GOOD})
    card.write(SlotState(1), state)
    assert starts()[0] == "starting slot B"


@pytest.mark.parametrize("garbage", [bytes(SIZE), b"\xff" * SIZE, SlotState(99, ("a", "b")).encode()[: SIZE // 2]])
@pytest.mark.parametrize("place", [0, 1])
def test_a_torn_copy_of_the_state_does_not_matter(
    card: Card, starts: Callable[[], list[str]], garbage: bytes, place: int
) -> None:
    state = SlotState(3, ("b", "a"), {"a": GOOD, "b": Counter(1, 2)})
    card.write(*((garbage, state) if place == 0 else (state, garbage)))
    assert starts()[:3] == ["starting slot B edge.tries=0-3", "slot B did not start", "starting slot A"]
    assert all(card.copies())


def test_with_both_copies_gone_slots_are_new(card: Card, starts: Callable[[], list[str]]) -> None:
    card.write(b"\xff" * SIZE, bytes(SIZE))
    assert starts()[:4] == [
        "both copies of the state are gone, starting anew",
        "starting slot A edge.tries=2-1", "slot A did not start", "starting slot B edge.tries=2-1",
    ]  # fmt: skip
    assert newest(card.copies()).counters == {"a": Counter(2, 1), "b": Counter(2, 1)}


def test_a_damaged_image_is_passed_over_and_keeps_its_tries(card: Card, starts: Callable[[], list[str]]) -> None:
    card.damage("a")
    card.write(SlotState(4, ("a", "b"), {"a": Counter(3), "b": GOOD}), SlotState(3))
    assert starts()[:2] == ["slot A has no image that is whole", "starting slot B"]
    assert newest(card.copies()).counter("a") == Counter(3)


def test_without_any_try_left_slots_take_turns(card: Card, starts: Callable[[], list[str]]) -> None:
    none = {"a": Counter(0, 3), "b": Counter(0, 3)}
    card.write(SlotState(4, ("a", "b"), none), SlotState(3))
    said = "no slot has a try left, starting slot {} all the same"
    assert starts()[0] == said.format("A")
    assert newest(card.copies()).counters == none
    card.write(SlotState(4, ("b", "a"), none), SlotState(3))
    assert starts()[0] == said.format("B")


def test_without_u_boots_own_settings_the_script_is_found_all_the_same(
    card: Card, starts: Callable[[], list[str]]
) -> None:
    card.put("uboot.env", b"\xff" * card.board.uboot.environment_size)
    card.write(SlotState(4, ("a", "b"), {"a": GOOD, "b": GOOD}), SlotState(3))
    assert starts()[:3] == ["starting slot A", "slot A did not start", "starting slot B"]
