"""Power cuts at moments by chance, each from the same saved state."""

import random
import time
from collections.abc import Callable
from typing import Any

from devices import READY, Device
from nodes import BOOT

SLOTS = (("a", "1.0.0"), ("b", "1.1.0"))  # where a device may stand then: on what it had, or on what it was to get


def survive(
    device: Device,
    begin: Callable[[], None],
    count: int,
    *,
    state: str = READY,
    patience: float = 1.0,
    afterwards: Callable[[int, str], None] = lambda number, slot: None,
) -> dict[str, Any]:
    """Cut the power `count` times after `begin`, which starts something and returns; figures of it.

    The moments are by chance, and yet over the whole of what an undisturbed run takes, up to the boot that is good.
    After each, one of `SLOTS` must run, well, with all that was there before; then `afterwards` is called with the
    cut's number and the slot. `patience` is how many times slower than a bare system it may boot.
    """
    seed = int(time.time())
    chance = random.Random(seed)
    device.restore(state)
    begin()
    device.wait_complete(patience * BOOT)
    device.settled(patience * 120)
    whole = device.seconds
    moments = [whole * (number + chance.random()) / count for number in range(count)]
    seen: dict[str, int] = {}
    for number, moment in enumerate(chance.sample(moments, count)):
        device.restore(state)
        begin()
        time.sleep(moment)
        device.cut()
        found = device.power_on(patience * BOOT)
        what, when = (found["slot"], found["version"]), f"cut {number} after {moment:.1f} of {whole:.1f} s"
        assert what in SLOTS, when
        standing = device.settled(patience * 120)
        assert (standing.slot, standing.version) == what, f"{when}: {standing}"
        device.intact()
        name = f"{standing.version} {standing.event or 'untouched'}"
        seen[name] = seen.get(name, 0) + 1
        afterwards(number, standing.slot)
    return {"cuts": count, "survived": sum(seen.values()), "seed": seed, **seen}
