"""Which slot U-Boot starts, and how many tries each has left: kept twice, so that a torn write never loses it.

Both copies lie in the partition `uboot-env`, far apart, since a card rewrites large blocks. Each has a checksum and a
generation. The newer one that is whole counts, and the older one is written: boot.scr does so before a try, this
module afterwards. The names are those that RAUC has for U-Boot; a slot that was found good has `good` for its tries.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from osbuild.shared.locks import lock_descriptor
from osbuild.shared.uboot_environment import pack_environment, unpack_environment

PARTITION = "uboot-env"
COPY_OFFSETS = (0, 4 * 2**20)  # bytes into the partition
COPY_SIZE = 4096  # bytes of a copy
TRIES = 3
GOOD = "good"
SLOT = re.compile("[a-z]")
LEFT = re.compile(r"BOOT_([A-Z])_LEFT")


@dataclass(frozen=True)
class BootCounter:
    """Tries of a slot; `left` is None once it was found good, as for systemd-boot a name without a counter is."""

    left: int | None = TRIES
    done: int = 0


@dataclass(frozen=True)
class UBootState:
    """`order` and `counters` are of slots by their letter in lower case; what is missing is like a new slot."""

    generation: int = 0
    order: tuple[str, ...] = ("a", "b")
    counters: Mapping[str, BootCounter] = field(default_factory=dict)

    def counter(self, slot: str) -> BootCounter:
        return self.counters.get(slot, BootCounter())

    def with_counter(self, slot: str, counter: BootCounter) -> "UBootState":
        return replace(self, counters={**self.counters, slot: counter})

    def with_good(self, slot: str) -> "UBootState":
        """The same with `slot` found good."""
        return self.with_counter(slot, BootCounter(None))

    def with_switch(self, slot: str) -> "UBootState":
        """The same with `slot` first and on trial, unless it is first already and was not tried, or found good."""
        if self.next_slot({slot, *self.order}) == slot and self.counter(slot) in (BootCounter(), BootCounter(None)):
            return self
        order = (slot, *(other for other in self.order if other != slot))
        return replace(self.with_counter(slot, BootCounter()), order=order)

    def with_rejected(self, slot: str) -> "UBootState":
        """The same with no try left for `slot`."""
        return self.with_counter(slot, replace(self.counter(slot), left=0))

    def next_slot(self, slots: Collection[str]) -> str | None:
        """Which of `slots`, those with an image, U-Boot starts first: one with a try left, else any."""
        ranked = [slot for slot in self.order if slot in slots]
        return next((slot for slot in ranked if self.counter(slot).left != 0), next(iter(ranked), None))

    def encode(self) -> bytes:
        """One copy of it. Numbers are hexadecimal, as U-Boot's `setexpr` has them."""
        variables = {"GENERATION": f"{self.generation:x}", "BOOT_ORDER": " ".join(self.order).upper()}
        for slot in sorted({*self.order, *self.counters}):
            counter = self.counter(slot)
            variables[f"BOOT_{slot.upper()}_LEFT"] = GOOD if counter.left is None else f"{counter.left:x}"
            variables[f"BOOT_{slot.upper()}_DONE"] = f"{counter.done:x}"
        return pack_environment(variables, COPY_SIZE)


def decode_state(data: bytes) -> UBootState | None:
    """The state in a copy, or None for a copy that is not whole."""
    variables = unpack_environment(data)
    try:
        if variables is None:
            return None
        order = tuple(variables["BOOT_ORDER"].lower().split())
        if not order or len(set(order)) < len(order) or not all(SLOT.fullmatch(slot) for slot in order):
            return None
        counters = {}
        for slot in {*order, *(match[1].lower() for name in variables if (match := LEFT.fullmatch(name)))}:
            left, done = variables[f"BOOT_{slot.upper()}_LEFT"], variables[f"BOOT_{slot.upper()}_DONE"]
            counters[slot] = BootCounter(None if left == GOOD else parse_hex(left, 2), parse_hex(done))
        return UBootState(parse_hex(variables["GENERATION"]), order, counters)
    except (KeyError, ValueError):
        return None


def parse_hex(text: str, digits: int = 8) -> int:
    """A hexadecimal number as U-Boot writes it. Raises `ValueError`."""
    if not re.fullmatch(f"[0-9a-f]{{1,{digits}}}", text):
        raise ValueError(text)
    return int(text, 16)


def newest_state(copies: list[UBootState | None]) -> UBootState:
    """The state that counts; where both copies are gone, that of a new device."""
    return copies[newest_copy(copies)] or UBootState()


def newest_copy(copies: list[UBootState | None]) -> int:
    """Which copy counts; the other one is to be written."""
    return max(range(len(copies)), key=lambda place: copy.generation if (copy := copies[place]) else -1)


def read_state(device: Path) -> UBootState:
    """The state in the partition `device`. Raises `OSError`."""
    with device.open("rb") as file:
        return newest_state(read_copies(file.fileno()))


def change_state(device: Path, how: Callable[[UBootState], UBootState]) -> UBootState:
    """Write what `how` makes of the state over the older copy, and return it. Raises `OSError`.

    Nothing is written where nothing changes. One process at a time; U-Boot itself is gone by then.
    """
    with device.open("r+b", buffering=0) as file:
        lock_descriptor(file.fileno())
        states = read_copies(file.fileno())
        state = newest_state(states)
        made = how(state)
        if made == state and state in states:
            return state
        made = replace(made, generation=state.generation + 1)
        os.pwrite(file.fileno(), made.encode(), COPY_OFFSETS[1 - newest_copy(states)])
        os.fsync(file.fileno())
        return made


def read_copies(descriptor: int) -> list[UBootState | None]:
    """Each copy, None where it is not whole or can't be read: a card may refuse one of them."""
    found = []
    for offset in COPY_OFFSETS:
        try:
            found.append(decode_state(os.pread(descriptor, COPY_SIZE, offset)))
        except OSError:
            found.append(None)
    return found


def initial_partition() -> bytes:
    """What the partition begins with on a new device, both copies whole: slot A on trial."""
    first = UBootState(1, counters={"a": BootCounter(), "b": BootCounter()})
    return first.encode().ljust(COPY_OFFSETS[1], b"\0") + replace(first, generation=2).encode()
