"""Power cuts at moments by chance, each from the same saved state."""

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from osbuild.host import log
from support.devices import READY, Device
from support.nodes import BOOT

VERSIONS = {"a": "1.0.0", "b": "1.1.0"}  # what a device may stand on then: what it had, or what it was to get


def survive(
    device: Device,
    begin: Callable[[], None],
    count: int,
    figures: dict[str, Any],
    events: Mapping[str, Collection[str]],
    *,
    state: str = READY,
    patience: float = 1.0,
    afterwards: Callable[[str], None] = lambda slot: None,
) -> None:
    """Cut the power `count` times after `begin`, which starts something and returns; `figures` are kept up to date.

    The moments are by chance, and yet over the whole of what an undisturbed run takes, up to the boot that is good.
    After each, either slot must run, well, with all that was there before, and the last of an update's `events` must be
    one that fits the slot; then `afterwards` is called with the slot. `patience` is how many times slower than a bare
    system it may boot.
    """
    seed = int(time.time())
    chance = random.Random(seed)
    device.restore(state)
    begin()
    device.wait_complete(patience * BOOT)
    device.settled(patience * 120)
    whole = device.seconds
    figures |= {"cuts": 0, "survived": 0, "seed": seed}
    moments = [whole * (number + chance.random()) / count for number in range(count)]
    for number, moment in enumerate(chance.sample(moments, count)):
        device.restore(state)
        begin()
        time.sleep(moment)
        device.cut()
        figures["cuts"] += 1
        slot, when = device.power_on(patience * BOOT)["slot"], f"cut {number} after {moment:.1f} of {whole:.1f} s"
        standing = device.settled(patience * 120)
        assert (standing.slot, standing.version) == (slot, VERSIONS[slot]), f"{when}: {standing}"
        assert standing.event in events[slot], f"{when}: {standing}"
        device.intact()
        afterwards(slot)
        name = f"{standing.version} {standing.event or 'untouched'}"
        figures[name] = figures.get(name, 0) + 1
        figures["survived"] += 1
        log.note(f"{when}: {name}, slot {slot}")
