"""Boot loaders for tests of what an update decides: a simple one in memory, and the real flows on files.

What a boot loader does by itself, choosing a slot and counting a try, is written here a second time, apart from the
agent. `InspectedSlot.image` is the version whose root is whole: a real boot image that is booted must be of the same.
"""

import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osbuild.agent.boot.loader import BootLoader
from osbuild.agent.boot.systemd_boot import SystemdBootLoader
from osbuild.agent.boot.uboot import UBootLoader
from osbuild.agent.system import System
from osbuild.bundle import blocks, hook
from osbuild.shared import uboot_state
from osbuild.shared.boot_entry import BootEntry
from osbuild.shared.uboot_state import BootCounter
from tests.support.cuts import Fat, Power

TRIES = 3
Step = Callable[[], object]


@dataclass
class Slot:
    """`image` is the version that is whole in it; None while it is being written."""

    image: str | None = None
    generation: int = 0
    left: int | None = None
    done: int = 0
    entry: bool = False
    staged: bool = False


@dataclass
class Loader:
    """The flows' protocol, and the boot loader's own choice."""

    power: Power
    slots: dict[str, Slot]
    counted: BootEntry | None = None
    readable: bool = True
    forgets: bool = False  # tries that were done, where a slot is rejected
    damaged: set[str] = field(default_factory=set)  # versions whose boot image the loader skips

    def entry(self, name: str) -> BootEntry:
        return BootEntry(f"edge-{name}.efi", name, self.slots[name].left, self.slots[name].done)

    def read_entries(self, system: System) -> list[BootEntry]:
        return [self.entry(name) for name, slot in sorted(self.slots.items()) if slot.entry and self.readable]

    def booted_entry(self, system: System) -> BootEntry | None:
        return self.counted

    def bless(self, system: System, slot: str) -> None:
        self.change(slot, left=None, done=0)

    def next_slot(self, system: System) -> str | None:
        return self.best({name: slot for name, slot in self.slots.items() if slot.entry})

    def best(self, there: dict[str, Slot]) -> str | None:
        """The highest generation with a try left, else of what has none."""
        return max(there, key=lambda name: (there[name].left != 0, there[name].generation), default=None)

    def switch_to(self, system: System, slot: str) -> None:
        if not (self.slots[slot].entry or self.slots[slot].staged):
            raise FileNotFoundError(2, "no boot image", f"edge-{slot}.efi")
        highest = max(other.generation for other in self.slots.values())
        self.change(slot, generation=highest + 1, left=TRIES, done=0, entry=True, staged=False)

    def reject(self, system: System, slot: str) -> None:
        self.change(slot, left=0, staged=False, **({"done": 0} if self.forgets else {}))

    def change(self, name: str, **values: Any) -> None:
        """One rename: all of it or nothing."""
        self.power.tick()
        for key, value in values.items():
            setattr(self.slots[name], key, value)
        self.power.tick()

    def watched(self) -> AbstractContextManager[None]:
        """Have the power fail within what is written meanwhile."""
        return nullcontext()

    def steps(self, name: str, version: str) -> list[Step]:
        """What RAUC does to write a slot: marks it bad, takes its entry away, writes it, stages its boot image."""
        return [
            lambda: self.change(name, left=0, staged=False),
            lambda: self.change(name, entry=False),
            lambda: self.change(name, image=None),
            lambda: self.change(name, image=version),
            lambda: self.change(name, staged=True),
        ]

    def choose(self) -> str:
        """What it boots, a try used up by it."""
        there = {name: slot for name, slot in self.slots.items() if slot.entry and slot.image not in self.damaged}
        name = str(self.best(there))
        slot = self.slots[name]
        self.counted = None
        if slot.left is not None:
            slot.left, slot.done = max(slot.left - 1, 0), slot.done + 1
            self.counted = self.entry(name)
        return name


class Real(Loader):
    """A flow as it is, and the bundle's hook, on files below `root`; slot a has its boot image and is good."""

    flow: BootLoader
    folder: str  # of boot images, on the ESP
    suffix: str

    def __init__(self, power: Power, slots: dict[str, Slot], root: Path) -> None:
        super().__init__(power, slots)
        self.system, self.partition = System(root), root / "efi"
        self.fat = Fat(power, self.partition / self.folder, root / "dev/disk2")
        self.fat.folder.mkdir(parents=True)

    def read_entries(self, system: System) -> list[BootEntry]:
        return self.flow.read_entries(system)

    def next_slot(self, system: System) -> str | None:
        return self.flow.next_slot(system)

    def bless(self, system: System, slot: str) -> None:
        self.flow.bless(system, slot)

    def switch_to(self, system: System, slot: str) -> None:
        self.flow.switch_to(system, slot)

    def reject(self, system: System, slot: str) -> None:
        self.flow.reject(system, slot)

    def watched(self) -> AbstractContextManager[None]:
        return self.fat.watched()

    def file(self, name: str, version: str) -> bytes:
        """A boot image: a block that both slots have, and one of its own."""
        return f"kernel {version}\n".encode().ljust(blocks.SIZE, b".") + f"slot {name} of {version}\n".encode()

    def steps(self, name: str, version: str) -> list[Step]:
        def put() -> None:
            with tempfile.TemporaryDirectory() as bundle:
                files = {slot: Path(bundle, f"edge-{slot}.{self.suffix}") for slot in self.slots}
                for slot, path in files.items():
                    path.write_bytes(self.file(slot, version))
                blocks.store_blocks(files, self.folder, Path(bundle))
                hook.install_boot_image(Path(bundle), self.partition, name)

        return [
            lambda: self.flow.reject(self.system, name),
            put,
            lambda: self.change(name, image=None),
            lambda: self.change(name, image=version),
        ]

    def load(self, name: str, path: Path) -> None:
        """Read what is booted: whole, of the version that the slot has, and in blocks that are still its own."""
        found, wanted = path.read_bytes(), self.file(name, str(self.slots[name].image))
        assert found == wanted, f"{path.name} is not of the version that its slot has"
        assert path.name not in self.fat.torn(), f"the blocks of {path.name} are free"


class Esp(Real):
    """systemd-boot (its manual, "Boot Counting"): of entries with a try left, else of all, the last by its name."""

    flow, folder, suffix = SystemdBootLoader(), "EFI/Linux", "efi"

    def __init__(self, power: Power, slots: dict[str, Slot], root: Path) -> None:
        super().__init__(power, slots, root)
        (self.fat.folder / "edge-1-a.efi").write_bytes(self.file("a", str(slots["a"].image)))

    def choose(self) -> str:
        found = []
        for path in self.fat.folder.iterdir():
            match = re.fullmatch(r"edge-(\d+)-([ab])(?:\+(\d+)(?:-(\d+))?)?\.efi", path.name)
            if match and path.stat().st_size and self.slots[match[2]].image not in self.damaged:
                left = None if match[3] is None else int(match[3])
                found.append((left != 0, int(match[1]), match[2], left, int(match[4] or 0), path))
        _, generation, name, left, done, path = max(found, key=lambda one: (one[:3], one[5].name))
        self.load(name, path)
        self.counted = None
        if left is not None:
            left, done = max(left - 1, 0), done + 1
            self.counted = BootEntry(f"edge-{generation}-{name}+{left}-{done}.efi", name, left, done, generation)
            path.rename(path.with_name(self.counted.file))
        return name


class SdCard(Real):
    """boot.scr: the first slot of BOOT_ORDER that has an image and a try left, else any that has an image."""

    flow, folder, suffix = UBootLoader(), ".", "img"

    def __init__(self, power: Power, slots: dict[str, Slot], root: Path) -> None:
        super().__init__(power, slots, root)
        self.fat = replace(self.fat, folder=self.partition)
        (self.partition / "edge-a.img").write_bytes(self.file("a", str(slots["a"].image)))
        for number, label in enumerate(("esp", "uboot-env", "root-a"), 1):
            (root / f"sys/devices/disk/disk{number}").mkdir(parents=True)
            facts = f"DEVNAME=disk{number}\nPARTNAME={label}\n"
            (root / f"sys/devices/disk/disk{number}/uevent").write_text(facts)
        (root / "sys/block/dm-0/slaves").mkdir(parents=True)
        (root / "sys/block/dm-0/slaves/disk3").symlink_to(root / "sys/devices/disk/disk3")
        (root / "dev").mkdir()
        with self.fat.raw.open("wb") as file:
            for place in uboot_state.COPY_OFFSETS:
                file.seek(place)
                file.write(uboot_state.UBootState(1 + (place > 0)).encode())
        uboot_state.change_state(self.fat.raw, lambda state: state.with_good("a"))

    def choose(self) -> str:
        state = uboot_state.read_state(self.fat.raw)
        usable = [name for name in state.order if self.slots[name].image not in self.damaged]
        images = {name: self.partition / f"edge-{name}.img" for name in usable}
        there = [name for name, path in images.items() if path.exists() and path.stat().st_size]
        name = next((name for name in there if state.counters[name].left != 0), there[0])
        self.load(name, images[name])
        tries = state.counters[name]
        self.counted = None
        if tries.left is not None:
            counter = BootCounter(max(tries.left - 1, 0), tries.done + 1)
            self.counted = BootEntry(f"edge-{name}.img", name, counter.left, counter.done)
            uboot_state.change_state(self.fat.raw, lambda state: state.with_counter(name, counter))
        return name


LOADERS: dict[str, type[Real] | None] = {"simple": None, "uefi": Esp, "uboot": SdCard}
