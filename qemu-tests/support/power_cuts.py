"""Power cuts at random moments, each from the same saved state."""

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from osbuild.host import log
from support.devices import READY, Device
from support.nodes import BOOT

VERSIONS = {"a": "1.0.0", "b": "1.1.0"}  # slot -> version that it must have after a cut


def cut_power_repeatedly(
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
    """Cut the power `count` times after `begin`, which starts a command in the background; `figures` are kept current.

    The moments are random, but spread over the duration of an uninterrupted run up to the good boot. After each cut,
    one of the slots must run, healthy and with its data, and the last event of the update must be one of `events` of
    that slot; then `afterwards` is called with the slot. `patience` is the factor for timeouts of boots.
    """
    seed = int(time.time())
    chance = random.Random(seed)
    device.restore(state)
    begin()
    device.wait_complete(patience * BOOT)
    device.wait_settled(patience * 120)
    total = device.seconds
    figures |= {"cuts": 0, "survived": 0, "seed": seed}
    moments = [total * (number + chance.random()) / count for number in range(count)]
    for number, moment in enumerate(chance.sample(moments, count)):
        device.restore(state)
        begin()
        time.sleep(moment)
        device.cut_power()
        figures["cuts"] += 1
        slot, when = device.power_on(patience * BOOT)["slot"], f"cut {number} after {moment:.1f} of {total:.1f} s"
        standing = device.wait_settled(patience * 120)
        assert (standing.slot, standing.version) == (slot, VERSIONS[slot]), f"{when}: {standing}"
        assert standing.event in events[slot], f"{when}: {standing}"
        device.check_intact()
        afterwards(slot)
        name = f"{standing.version} {standing.event or 'untouched'}"
        figures[name] = figures.get(name, 0) + 1
        figures["survived"] += 1
        log.note(f"{when}: {name}, slot {slot}")
