"""Which slot U-Boot starts, and how many tries each has left: kept twice, so that a torn write never loses it.

Both copies lie in the partition `uboot-env`, far apart, since a card rewrites large blocks. Each has a checksum and a
generation. The newer one that is whole counts, and the older one is written: boot.scr does so before a try, this
module afterwards. The names are those that RAUC has for U-Boot; a slot that was found good has `good` for its tries.
"""

import fcntl
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from osbuild.agent.environment import pack, unpack

PARTITION = "uboot-env"
PLACES = (0, 4 * 2**20)  # bytes into the partition
SIZE = 4096  # bytes of a copy
TRIES = 3
GOOD = "good"
SLOT = re.compile("[a-z]")
LEFT = re.compile(r"BOOT_([A-Z])_LEFT")


@dataclass(frozen=True)
class Counter:
    """Tries of a slot; `left` is None once it was found good, as for systemd-boot a name without a counter is."""

    left: int | None = TRIES
    done: int = 0


@dataclass(frozen=True)
class SlotState:
    """`order` and `counters` are of slots by their letter in lower case; what is missing is like a new slot."""

    generation: int = 0
    order: tuple[str, ...] = ("a", "b")
    counters: Mapping[str, Counter] = field(default_factory=dict)

    def counter(self, slot: str) -> Counter:
        return self.counters.get(slot, Counter())

    def with_counter(self, slot: str, counter: Counter) -> "SlotState":
        return replace(self, counters={**self.counters, slot: counter})

    def blessed(self, slot: str) -> "SlotState":
        """The same with `slot` found good."""
        return self.with_counter(slot, Counter(None))

    def activated(self, slot: str) -> "SlotState":
        """The same with `slot` first and on trial, unless it is first already and was not tried, or found good."""
        if self.choice({slot, *self.order}) == slot and self.counter(slot) in (Counter(), Counter(None)):
            return self
        order = (slot, *(other for other in self.order if other != slot))
        return replace(self.with_counter(slot, Counter()), order=order)

    def rejected(self, slot: str) -> "SlotState":
        """The same with no try left for `slot`."""
        return self.with_counter(slot, replace(self.counter(slot), left=0))

    def choice(self, slots: Collection[str]) -> str | None:
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
        return pack(variables, SIZE)


def decode(data: bytes) -> SlotState | None:
    """The state in a copy, or None for a copy that is not whole."""
    variables = unpack(data)
    try:
        if variables is None:
            return None
        order = tuple(variables["BOOT_ORDER"].lower().split())
        if not order or len(set(order)) < len(order) or not all(SLOT.fullmatch(slot) for slot in order):
            return None
        counters = {}
        for slot in {*order, *(found[1].lower() for name in variables if (found := LEFT.fullmatch(name)))}:
            left, done = variables[f"BOOT_{slot.upper()}_LEFT"], variables[f"BOOT_{slot.upper()}_DONE"]
            counters[slot] = Counter(None if left == GOOD else number(left, 2), number(done))
        return SlotState(number(variables["GENERATION"]), order, counters)
    except (KeyError, ValueError):
        return None


def number(text: str, digits: int = 8) -> int:
    """A hexadecimal number as U-Boot writes it. Raises `ValueError`."""
    if not re.fullmatch(f"[0-9a-f]{{1,{digits}}}", text):
        raise ValueError(text)
    return int(text, 16)


def newest(copies: list[SlotState | None]) -> SlotState:
    """The state that counts; where both copies are gone, that of a new device."""
    return copies[latest(copies)] or SlotState()


def latest(copies: list[SlotState | None]) -> int:
    """Which copy counts; the other one is to be written."""
    return max(range(len(copies)), key=lambda place: copy.generation if (copy := copies[place]) else -1)


def read(device: Path) -> SlotState:
    """The state in the partition `device`. Raises `OSError`."""
    with device.open("rb") as file:
        return newest(copies(file.fileno()))


def change(device: Path, how: Callable[[SlotState], SlotState]) -> SlotState:
    """Write what `how` makes of the state over the older copy, and return it. Raises `OSError`.

    Nothing is written where nothing changes. One process at a time; U-Boot itself is gone by then.
    """
    with device.open("r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = copies(file.fileno())
        state = newest(found)
        made = how(state)
        if made == state and state in found:
            return state
        made = replace(made, generation=state.generation + 1)
        os.pwrite(file.fileno(), made.encode(), PLACES[1 - latest(found)])
        os.fsync(file.fileno())
        return made


def copies(descriptor: int) -> list[SlotState | None]:
    """Each copy, None where it is not whole or can't be read: a card may refuse one of them."""
    found = []
    for place in PLACES:
        try:
            found.append(decode(os.pread(descriptor, SIZE, place)))
        except OSError:
            found.append(None)
    return found


def initial() -> bytes:
    """What the partition begins with on a new device, both copies whole: slot A on trial."""
    first = SlotState(1, counters={"a": Counter(), "b": Counter()})
    return first.encode().ljust(PLACES[1], b"\0") + replace(first, generation=2).encode()
