"""Boot entries of boards with U-Boot: images on the boot partition, counted in the slots' state beside it.

What was staged gets its name while the slot has no try: it is started once the state says so, which is one write. What
a power cut leaves of a rename is as `osbuild.agent.uefi` says.
"""

import errno
import re
from pathlib import Path

from osbuild.agent import slotstate
from osbuild.agent.entry import Entry, remove
from osbuild.agent.slotstate import Counter
from osbuild.agent.system import System, flush

IMAGES = "/efi"
NAME = re.compile(r"edge-[a-z]\.img")
TRIES = re.compile(r"([0-9a-f]+)-([0-9a-f]+)")
ROOT = "/sys/block/dm-0/slaves"  # the partitions below the root that dm-verity checks


class UBoot:
    """See `osbuild.agent.boot.Flow`."""

    def entries(self, system: System) -> list[Entry]:
        try:
            names = images(system)
            state = slotstate.read(device(system))
        except OSError:
            return []
        counters = {slot: state.counter(slot) for slot in sorted(names)}
        return [Entry(names[slot], slot, counter.left, counter.done) for slot, counter in counters.items()]

    def booted(self, system: System) -> Entry | None:
        """boot.scr adds `edge.tries=LEFT-DONE` to the kernel command line of a boot that it counts."""
        slot, found = system.argument("edge.slot"), TRIES.fullmatch(system.argument("edge.tries") or "")
        return Entry(f"edge-{slot}.img", slot, int(found[1], 16), int(found[2], 16)) if slot and found else None

    def bless(self, system: System, slot: str) -> None:
        slotstate.change(device(system), lambda state: state.blessed(slot))

    def primary(self, system: System) -> str | None:
        try:
            return slotstate.read(device(system)).choice(images(system))
        except OSError:
            return None

    def activate(self, system: System, slot: str) -> None:
        image, staged = places(system, slot)
        if slot not in images(system):
            if not staged.is_file():
                raise FileNotFoundError(errno.ENOENT, "there is nothing to boot", f"slot {slot}")
            # No tries done either: with those of an earlier image a cut here would look as if this one had failed.
            slotstate.change(device(system), lambda state: state.with_counter(slot, Counter(0)))
            staged.replace(image)
            flush(image.parent)
        slotstate.change(device(system), lambda state: state.activated(slot))

    def reject(self, system: System, slot: str) -> None:
        slotstate.change(device(system), lambda state: state.rejected(slot))
        image, staged = places(system, slot)
        spare = staged.with_suffix(".spare")
        if staged.exists() and not (slot in images(system) or spare.exists()):
            staged.replace(spare)
        elif staged.exists():
            remove([image, staged, spare], staged.with_suffix(".partial"))
        flush(image.parent)


def images(system: System) -> dict[str, str]:
    """Slot -> name of its image, of those that are there and not empty. Raises `OSError`."""
    found = [path for path in system.path(IMAGES).iterdir() if NAME.fullmatch(path.name)]
    return {path.stem.removeprefix("edge-"): path.name for path in found if path.is_file() and path.stat().st_size}


def places(system: System, slot: str) -> tuple[Path, Path]:
    """A slot's image, and what an installation leaves to be switched to."""
    return system.path(IMAGES) / f"edge-{slot}.img", system.path(IMAGES) / f"edge-{slot}.img.staged"


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
