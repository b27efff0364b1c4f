"""The boot state of U-Boot: the order of the slots and their tries, stored in two copies to survive a torn write.

Both copies are in the partition `uboot-env`, 4 MiB apart because a card rewrites large blocks. Each copy has a
checksum and a generation. The valid copy with the higher generation is used, and a change overwrites the other one:
boot.scr does so before each try, and this module on the running system. The variables have RAUC's names for U-Boot. The
tries of a good slot are `good`.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from osbuild.shared.boot_entry import TRIES
from osbuild.shared.locks import lock_descriptor
from osbuild.shared.uboot_environment import pack_environment, unpack_environment

PARTITION = "uboot-env"
COPY_OFFSETS = (0, 4 * 2**20)  # bytes from the start of the partition
COPY_SIZE = 4096  # bytes of a copy
GOOD = "good"
SLOT = re.compile("[a-z]")
LEFT = re.compile(r"BOOT_([A-Z])_LEFT")


@dataclass(frozen=True)
class BootCounter:
    """The tries of a slot. `left` is None if the slot is good."""

    left: int | None = TRIES
    done: int = 0


@dataclass(frozen=True)
class UBootState:
    """The boot state. Slots are lower-case letters; a slot without counter has all its tries."""

    generation: int = 0
    order: tuple[str, ...] = ("a", "b")
    counters: Mapping[str, BootCounter] = field(default_factory=dict)

    def counter(self, slot: str) -> BootCounter:
        return self.counters.get(slot, BootCounter())

    def with_counter(self, slot: str, counter: BootCounter) -> "UBootState":
        return replace(self, counters={**self.counters, slot: counter})

    def with_good(self, slot: str) -> "UBootState":
        """This state with `slot` marked as good."""
        return self.with_counter(slot, BootCounter(None))

    def with_switch(self, slot: str) -> "UBootState":
        """This state with `slot` first and on trial, unless it is next already and good or untried."""
        if self.next_slot({slot, *self.order}) == slot and self.counter(slot) in (BootCounter(), BootCounter(None)):
            return self
        order = (slot, *(other for other in self.order if other != slot))
        return replace(self.with_counter(slot, BootCounter()), order=order)

    def with_rejected(self, slot: str) -> "UBootState":
        """This state with no try left for `slot`."""
        return self.with_counter(slot, replace(self.counter(slot), left=0))

    def next_slot(self, slots: Collection[str]) -> str | None:
        """The slot that U-Boot starts: the first of `slots` with a try left, else the first. They have boot images."""
        ranked = [slot for slot in self.order if slot in slots]
        return next((slot for slot in ranked if self.counter(slot).left != 0), next(iter(ranked), None))

    def encode(self) -> bytes:
        """The bytes of one copy. Numbers are hexadecimal, as in U-Boot's `setexpr`."""
        variables = {"GENERATION": f"{self.generation:x}", "BOOT_ORDER": " ".join(self.order).upper()}
        for slot in sorted({*self.order, *self.counters}):
            counter = self.counter(slot)
            variables[f"BOOT_{slot.upper()}_LEFT"] = GOOD if counter.left is None else f"{counter.left:x}"
            variables[f"BOOT_{slot.upper()}_DONE"] = f"{counter.done:x}"
        return pack_environment(variables, COPY_SIZE)


def decode_state(data: bytes) -> UBootState | None:
    """The state in a copy, or None if the copy is damaged."""
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
    """The state in effect; the state of a new device if both copies are damaged."""
    return copies[newest_copy(copies)] or UBootState()


def newest_copy(copies: list[UBootState | None]) -> int:
    """The index of the copy in effect. A change overwrites the other one."""
    return max(range(len(copies)), key=lambda index: copy.generation if (copy := copies[index]) else -1)


def read_state(device: Path) -> UBootState:
    """The state in the partition `device`. Raises `OSError`."""
    with device.open("rb") as file:
        return newest_state(read_copies(file.fileno()))


def change_state(device: Path, change: Callable[[UBootState], UBootState]) -> UBootState:
    """Apply `change` to the state, write it over the older copy and return it. Raises `OSError`.

    Nothing is written if nothing changes. A lock keeps other processes out; U-Boot does not run any more.
    """
    with device.open("r+b", buffering=0) as file:
        lock_descriptor(file.fileno())
        states = read_copies(file.fileno())
        state = newest_state(states)
        new_state = change(state)
        if new_state == state and state in states:
            return state
        new_state = replace(new_state, generation=state.generation + 1)
        os.pwrite(file.fileno(), new_state.encode(), COPY_OFFSETS[1 - newest_copy(states)])
        os.fsync(file.fileno())
        return new_state


def read_copies(descriptor: int) -> list[UBootState | None]:
    """Each copy, or None if it is damaged or cannot be read: a card may fail to read only one of them."""
    copies = []
    for offset in COPY_OFFSETS:
        try:
            copies.append(decode_state(os.pread(descriptor, COPY_SIZE, offset)))
        except OSError:
            copies.append(None)
    return copies


def initial_partition() -> bytes:
    """The first bytes of the partition on a new device: two valid copies, with slot A on trial."""
    first = UBootState(1, counters={"a": BootCounter(), "b": BootCounter()})
    return first.encode().ljust(COPY_OFFSETS[1], b"\0") + replace(first, generation=2).encode()
