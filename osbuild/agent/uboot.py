"""Boot entries of boards with U-Boot: images on the boot partition, counted in the slots' state beside it."""

import re
from pathlib import Path

from osbuild.agent import slotstate
from osbuild.agent.boot import Entry
from osbuild.agent.system import System

IMAGES = "/efi"
NAME = re.compile(r"edge-(?P<slot>[a-z])\.img")
TRIES = re.compile(r"([0-9a-f]+)-([0-9a-f]+)")
ROOT = "/sys/block/dm-0/slaves"  # the partitions below the root that dm-verity checks


class UBoot:
    """See `osbuild.agent.boot.Flow`."""

    def entries(self, system: System) -> list[Entry]:
        try:
            names = [path.name for path in system.path(IMAGES).iterdir()]
            state = slotstate.read(device(system))
        except OSError:
            return []
        found = {match["slot"]: name for name in names if (match := NAME.fullmatch(name))}
        counters = {slot: state.counter(slot) for slot in sorted(found)}
        return [Entry(found[slot], slot, counter.left, counter.done) for slot, counter in counters.items()]

    def booted(self, system: System) -> Entry | None:
        """boot.scr adds `edge.tries=LEFT-DONE` to the kernel command line of a boot that it counts."""
        slot, found = system.argument("edge.slot"), TRIES.fullmatch(system.argument("edge.tries") or "")
        return Entry(f"edge-{slot}.img", slot, int(found[1], 16), int(found[2], 16)) if slot and found else None

    def bless(self, system: System, slot: str) -> None:
        slotstate.change(device(system), lambda state: state.blessed(slot))


def device(system: System) -> Path:
    """The partition with the slots' state, on the disk that the root is on. Raises `OSError` where there is none.

    Not by its label: a second card in the machine may have the same one.
    """
    for part in system.path(ROOT).iterdir():
        for entry in (part.resolve() / "..").resolve().glob("*/uevent"):
            facts = dict(line.partition("=")[::2] for line in entry.read_text().splitlines())
            if facts.get("PARTNAME") == slotstate.PARTITION:
                return system.path("/dev") / facts["DEVNAME"]
    raise FileNotFoundError(2, "no such partition beside the root", slotstate.PARTITION)
