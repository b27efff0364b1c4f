"""A device in memory and a folder, for tests of what an update decides: slots, boot loader, cluster, power.

It implements the boot loader's protocol as the flows document it. Nothing of RAUC is here: a slot is written by a test.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osbuild.agent.boot import Entry
from osbuild.agent.system import System
from osbuild.agent.update.node import Node
from osbuild.agent.update.report import Report

TRIES = 3


class Cut(BaseException):
    """The power is gone: nothing that comes after it has any effect."""


@dataclass
class Power:
    """`left`: how many writes there are until the power fails; None for power that stays."""

    left: int | None = None
    off: bool = False

    def tick(self) -> None:
        """Before and after everything that is written."""
        if self.left is not None:
            self.off = self.off or self.left == 0
            self.left -= 1
        if self.off:
            raise Cut

    def restore(self, left: int | None = None) -> None:
        self.left, self.off = left, False


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
    counted: Entry | None = None
    readable: bool = True
    forgets: bool = False  # tries that were done, where a slot is rejected

    def entry(self, name: str) -> Entry:
        return Entry(f"edge-{name}.efi", name, self.slots[name].left, self.slots[name].done)

    def entries(self, system: System) -> list[Entry]:
        return [self.entry(name) for name, slot in sorted(self.slots.items()) if slot.entry and self.readable]

    def booted(self, system: System) -> Entry | None:
        return self.counted

    def bless(self, system: System, slot: str) -> None:
        self.change(slot, left=None, done=0)

    def primary(self, system: System) -> str | None:
        usable = [name for name, slot in self.slots.items() if slot.entry and slot.left != 0]
        return max(usable, key=lambda name: self.slots[name].generation, default=None)

    def activate(self, system: System, slot: str) -> None:
        if not (self.slots[slot].entry or self.slots[slot].staged):
            raise FileNotFoundError(2, "no boot file", f"edge-{slot}.efi")
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

    def choose(self) -> str:
        """What it boots: the highest generation with a try left, else what has none."""
        name = self.primary(System()) or max(
            (name for name, slot in self.slots.items() if slot.entry), key=lambda name: self.slots[name].generation
        )
        slot = self.slots[name]
        self.counted = None
        if slot.left is not None:
            slot.left, slot.done = max(slot.left - 1, 0), slot.done + 1
            self.counted = self.entry(name)
        return name


@dataclass
class Cluster:
    """What an update asks of Kubernetes: here a node that is cordoned or not."""

    power: Power
    cordoned: bool = False
    refuses: str | None = None
    fails: Exception | None = None
    done: dict[str, Any] | None = None
    deadline: float | None = None

    def refusal(self, system: System, wanted: str) -> str | None:
        return self.refuses

    def leave(self, system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
        self.deadline = deadline
        self.power.tick()
        self.cordoned = True
        self.power.tick()
        if self.fails:
            raise self.fails
        say("drained")
        return {"snapshot": "000000000042-v1.35.4"}

    def cost(self, system: System, wanted: str | None = None) -> dict[str, Any] | None:
        return None

    def reconcile(self, system: System) -> dict[str, Any] | None:
        if self.fails:
            raise self.fails
        return self.done

    def arrive(self, system: System) -> dict[str, Any]:
        self.power.tick()
        self.cordoned = False
        return {"uncordoned": True}


@dataclass
class Device:
    """A device below `root`, with 1.0.0 in slot a, good, and nothing in slot b."""

    root: Path
    power: Power = field(default_factory=Power)
    boots: int = 0
    restarts: int = 0
    output: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.loader = Loader(self.power, {"a": Slot("1.0.0", 1, entry=True), "b": Slot()})
        self.cluster = Cluster(self.power)
        self.put("usr/lib/rauc/system.conf", "[system]\ncompatible=edge-osbuild-tiny-test\n\n[keyring]\npath=x\n")
        self.put("proc/uptime", "100.0 1.0\n")
        (self.root / "var").mkdir(exist_ok=True)
        self.start("a")

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, slot: str) -> None:
        """What a kernel and its image give, once `slot` runs."""
        self.boots += 1
        self.slot = slot
        self.put("proc/cmdline", f"quiet edge.slot={slot} rauc.slot={slot}\n")
        self.put("proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n")
        facts = {
            "name": "tiny", "version": self.loader.slots[slot].image, "architecture": "x86_64",
            "kubernetes": {"role": "server", "distribution": "upstream", "version": "v1.36.3"},
        }  # fmt: skip
        self.put("usr/lib/edge-osbuild/image.json", json.dumps(facts))

    def reboot(self, *, orderly: bool = True) -> str:
        """Start again, and say which slot the boot loader has taken."""
        if orderly:
            self.put("var/lib/edge-osbuild/update/ended", f"boot-{self.boots}\n")
        self.start(self.loader.choose())
        return self.slot

    @property
    def system(self) -> System:
        return System(self.root)

    @property
    def node(self) -> Node:
        return Node(self.system, self.loader, self.cluster, Report(output=self.output), self.restart)

    def restart(self) -> None:
        self.restarts += 1

    @property
    def said(self) -> str:
        return self.output.getvalue()

    def write(self, version: str) -> Callable[[], dict[str, Any]]:
        """What RAUC does to the other slot: marks it bad, takes its entry away, writes it, stages its boot file."""
        target = self.loader.slots["b" if self.slot == "a" else "a"]

        def act() -> dict[str, Any]:
            for values in (
                {"left": 0, "staged": False}, {"entry": False}, {"image": None}, {"image": version}, {"staged": True},
            ):  # fmt: skip
                self.power.tick()
                for key, value in values.items():
                    setattr(target, key, value)
                self.power.tick()
            return {"fetched": 4096}

        return act
