"""Boot loaders for tests of the decisions of an update: a simple one in memory, and the real boot flows on files.

The work of the boot loader itself, choosing a slot and counting tries, is implemented here independently of the agent.
`Slot.image` is the version whose root is complete: a boot image that is booted must be of the same version.
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
    """`image` is the version of the complete root; None while it is being written."""

    image: str | None = None
    generation: int = 0
    left: int | None = None
    done: int = 0
    entry: bool = False
    staged: bool = False


@dataclass
class Loader:
    """Implements the agent's protocol `BootLoader` in memory, and the boot loader's own choice of a slot."""

    power: Power
    slots: dict[str, Slot]
    counted: BootEntry | None = None
    readable: bool = True
    forgets: bool = False  # whether rejecting a slot resets the tries done
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

    def best(self, candidates: dict[str, Slot]) -> str | None:
        """Return the slot with the highest generation, of those with tries left if there are any."""
        return max(candidates, key=lambda name: (candidates[name].left != 0, candidates[name].generation), default=None)

    def switch_to(self, system: System, slot: str) -> None:
        if not (self.slots[slot].entry or self.slots[slot].staged):
            raise FileNotFoundError(2, "no boot image", f"edge-{slot}.efi")
        highest = max(existing.generation for existing in self.slots.values())
        self.change(slot, generation=highest + 1, left=TRIES, done=0, entry=True, staged=False)

    def reject(self, system: System, slot: str) -> None:
        self.change(slot, left=0, staged=False, **({"done": 0} if self.forgets else {}))

    def change(self, name: str, **values: Any) -> None:
        """Change a slot atomically, like one rename."""
        self.power.tick()
        for key, value in values.items():
            setattr(self.slots[name], key, value)
        self.power.tick()

    def watched(self) -> AbstractContextManager[None]:
        """Let the power fail between the writes of the block."""
        return nullcontext()

    def steps(self, name: str, version: str) -> list[Step]:
        """Return RAUC's steps to write a slot: reject it, remove its entry, write it, stage its boot image."""
        return [
            lambda: self.change(name, left=0, staged=False),
            lambda: self.change(name, entry=False),
            lambda: self.change(name, image=None),
            lambda: self.change(name, image=version),
            lambda: self.change(name, staged=True),
        ]

    def choose(self) -> str:
        """Choose the slot to boot, and use one of its tries."""
        candidates = {name: slot for name, slot in self.slots.items() if slot.entry and slot.image not in self.damaged}
        name = str(self.best(candidates))
        slot = self.slots[name]
        self.counted = None
        if slot.left is not None:
            slot.left, slot.done = max(slot.left - 1, 0), slot.done + 1
            self.counted = self.entry(name)
        return name


class FileLoader(Loader):
    """A real boot flow and the bundle's hook on files below `root`; slot A has its boot image and is good."""

    flow: BootLoader
    folder: str  # folder of boot images on the ESP
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
        """Return a boot image: a block that both slots share, and one that differs."""
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
        """Assert that a booted image is of the version of its slot, and that its blocks are not free."""
        data, expected = path.read_bytes(), self.file(name, str(self.slots[name].image))
        assert data == expected, f"{path.name} is not of the version that its slot has"
        assert path.name not in self.fat.torn(), f"the blocks of {path.name} are free"


class Esp(FileLoader):
    """systemd-boot: the last entry by name, of those with tries left if there are any (its manual, "Boot Counting")."""

    flow, folder, suffix = SystemdBootLoader(), "EFI/Linux", "efi"

    def __init__(self, power: Power, slots: dict[str, Slot], root: Path) -> None:
        super().__init__(power, slots, root)
        (self.fat.folder / "edge-1-a.efi").write_bytes(self.file("a", str(slots["a"].image)))

    def choose(self) -> str:
        candidates = []
        for path in self.fat.folder.iterdir():
            match = re.fullmatch(r"edge-(\d+)-([ab])(?:\+(\d+)(?:-(\d+))?)?\.efi", path.name)
            if match and path.stat().st_size and self.slots[match[2]].image not in self.damaged:
                left = None if match[3] is None else int(match[3])
                candidates.append((left != 0, int(match[1]), match[2], left, int(match[4] or 0), path))
        _, generation, name, left, done, path = max(
            candidates, key=lambda candidate: (candidate[:3], candidate[5].name)
        )
        self.load(name, path)
        self.counted = None
        if left is not None:
            left, done = max(left - 1, 0), done + 1
            self.counted = BootEntry(f"edge-{generation}-{name}+{left}-{done}.efi", name, left, done, generation)
            path.rename(path.with_name(self.counted.file))
        return name


class SdCard(FileLoader):
    """boot.scr: the first slot of BOOT_ORDER with an image and tries left, otherwise the first with an image."""

    flow, folder, suffix = UBootLoader(), ".", "img"

    def __init__(self, power: Power, slots: dict[str, Slot], root: Path) -> None:
        super().__init__(power, slots, root)
        self.fat = replace(self.fat, folder=self.partition)
        (self.partition / "edge-a.img").write_bytes(self.file("a", str(slots["a"].image)))
        for number, label in enumerate(("esp", "uboot-env", "root-a"), 1):
            (root / f"sys/devices/disk/disk{number}").mkdir(parents=True)
            uevent = f"DEVNAME=disk{number}\nPARTNAME={label}\n"
            (root / f"sys/devices/disk/disk{number}/uevent").write_text(uevent)
        (root / "sys/block/dm-0/slaves").mkdir(parents=True)
        (root / "sys/block/dm-0/slaves/disk3").symlink_to(root / "sys/devices/disk/disk3")
        (root / "dev").mkdir()
        with self.fat.raw.open("wb") as file:
            for offset in uboot_state.COPY_OFFSETS:
                file.seek(offset)
                file.write(uboot_state.UBootState(1 + (offset > 0)).encode())
        uboot_state.change_state(self.fat.raw, lambda state: state.with_good("a"))

    def choose(self) -> str:
        state = uboot_state.read_state(self.fat.raw)
        usable = [name for name in state.order if self.slots[name].image not in self.damaged]
        images = {name: self.partition / f"edge-{name}.img" for name in usable}
        bootable = [name for name, path in images.items() if path.exists() and path.stat().st_size]
        name = next((name for name in bootable if state.counters[name].left != 0), bootable[0])
        self.load(name, images[name])
        tries = state.counters[name]
        self.counted = None
        if tries.left is not None:
            counter = BootCounter(max(tries.left - 1, 0), tries.done + 1)
            self.counted = BootEntry(f"edge-{name}.img", name, counter.left, counter.done)
            uboot_state.change_state(self.fat.raw, lambda state: state.with_counter(name, counter))
        return name


LOADERS: dict[str, type[FileLoader] | None] = {"simple": None, "uefi": Esp, "uboot": SdCard}
