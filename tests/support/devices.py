"""A device in memory and a folder, for tests of the decisions of an update: slots, boot loader, cluster, power.

RAUC is not used here: a test writes a slot itself, in the same steps.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.progress import ConsoleProgress
from osbuild.shared.boot_entry import BootEntry
from tests.support.boot_loaders import LOADERS, Loader, Slot
from tests.support.cuts import Power


@dataclass
class Cluster:
    """The part of Kubernetes that an update calls, for a node that is cordoned or not."""

    power: Power
    cordoned: bool = False
    refuses: str | None = None
    fails: Exception | None = None
    done: dict[str, Any] | None = None
    deadline: float | None = None
    answers: bool = True  # whether the node can be uncordoned now
    asked: int = 0  # how often uncordoning was postponed

    def refuse_version(self, system: System, wanted: str) -> str | None:
        return self.refuses

    def prepare_reboot(self, system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
        self.deadline = deadline
        self.power.tick()
        self.cordoned = True
        self.power.tick()
        if self.fails:
            raise self.fails
        say("drained")
        return {"snapshot": "000000000042-v1.35.4"}

    def rollback_loss(self, system: System, wanted: str | None = None) -> dict[str, Any] | None:
        return None

    def reconcile_data(self, system: System) -> dict[str, Any] | None:
        if self.fails:
            raise self.fails
        return self.done

    def mark_recorded(self, system: System) -> None:
        """Do nothing: `reconcile_data` returns the result that the test has set, every time."""

    def later(self) -> None:
        self.asked += 1

    def rejoin(self, system: System) -> dict[str, Any]:
        if not self.answers:
            return {"problem": "the node is still cordoned"}
        self.power.tick()
        self.cordoned = False
        return {"uncordoned": True}


@dataclass
class Device:
    """A device below `root`: slot A has 1.0.0 and is good, slot B is empty. `kind` is a key of `LOADERS`."""

    root: Path
    kind: str = "simple"
    power: Power = field(default_factory=Power)
    boots: int = 0
    restarts: int = 0
    output: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        slots, real = {"a": Slot("1.0.0", 1, entry=True), "b": Slot()}, LOADERS[self.kind]
        self.loader = real(self.power, slots, self.root) if real else Loader(self.power, slots)
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
        """Write the files of a running kernel and its image for a boot of `slot`."""
        self.boots += 1
        self.slot = slot
        self.put("proc/cmdline", f"quiet edge.slot={slot} rauc.slot={slot}\n")
        self.put("proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n")
        image = {
            "name": "tiny", "version": self.loader.slots[slot].image, "architecture": "x86_64",
            "kubernetes": {"role": "server", "distribution": "upstream", "version": "v1.36.3"},
        }  # fmt: skip
        self.put("usr/lib/edge-osbuild/image.json", json.dumps(image))

    def reboot(self, *, orderly: bool = True) -> str:
        """Reboot, and return the slot that the boot loader has chosen."""
        if orderly:
            self.put("var/lib/edge-osbuild/update/ended", f"boot-{self.boots}\n")
        self.start(self.loader.choose())
        return self.slot

    def entry(self, slot: str) -> BootEntry | None:
        """Return the current boot entry of a slot."""
        return next((entry for entry in self.loader.read_entries(self.system) if entry.slot == slot), None)

    @property
    def system(self) -> System:
        return System(self.root)

    @property
    def context(self) -> UpdateContext:
        report = ConsoleProgress(self.output)
        return UpdateContext(
            self.system, self.loader, self.cluster, report, self.request_reboot, lambda: self.cluster.later()
        )

    def request_reboot(self) -> None:
        self.restarts += 1

    @property
    def said(self) -> str:
        return self.output.getvalue()

    def write(self, version: str) -> Callable[[], dict[str, Any]]:
        """Return a function that writes the other slot in RAUC's steps."""

        def act() -> dict[str, Any]:
            for step in self.loader.steps("b" if self.slot == "a" else "a", version):
                step()
            return {"fetched": 4096}

        return act
