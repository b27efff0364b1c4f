"""Which slot runs and why: the slots' boot entries and their counters, the same for every boot flow."""

from dataclasses import dataclass
from typing import Protocol

from osbuild.agent.system import System
from osbuild.shared.boot_entry import BootEntry


class BootLoader(Protocol):
    """What differs between boot loaders."""

    def read_entries(self, system: System) -> list[BootEntry]:
        """Every slot's entry, sorted by slot; empty where the boot partition can't be read."""

    def booted_entry(self, system: System) -> BootEntry | None:
        """The entry that the boot loader chose, as it was then; None where that had no counter."""

    def bless(self, system: System, slot: str) -> None:
        """Mark a slot as good: from now on its boots are not counted. Raises `OSError`."""

    def next_slot(self, system: System) -> str | None:
        """The slot that the boot loader takes next; None where it finds nothing to boot."""

    def switch_to(self, system: System, slot: str) -> None:
        """Have a slot booted next, on trial with all its tries: what was staged for it, else what it has.

        Nothing is done where that is so already, or the slot is the boot loader's choice and good. A power cut leaves
        the choice as it was or as it is to be. Raises `FileNotFoundError` where the slot has nothing to boot, or
        another `OSError`.
        """

    def reject(self, system: System, slot: str) -> None:
        """Leave a slot without a try, and nothing staged for it. Raises `OSError`.

        What was staged stays as NAME.spare, which is never booted: the next installation copies blocks from it.
        """


def boot_loader(system: System) -> BootLoader:
    """The boot flow of the running image."""
    if system.image().get("boot") == "uboot":  # only the one that is needed, and imports are what takes time
        from osbuild.agent.boot.uboot import UBootLoader

        return UBootLoader()
    from osbuild.agent.boot.systemd_boot import SystemdBootLoader

    return SystemdBootLoader()


@dataclass(frozen=True)
class Boot:
    """How this boot came about.

    `entry` is the running slot's entry as it is now, `counted` whether it had a counter when the boot loader chose
    it, `others` the other slots' entries. Without access to the partition `entry` is what the boot loader said.
    """

    slot: str | None
    entry: BootEntry | None
    counted: bool
    others: tuple[BootEntry, ...]

    @property
    def on_trial(self) -> bool:
        """This boot still has to show that it is good."""
        return self.entry is not None and self.entry.left is not None

    @property
    def retry_reason(self) -> str | None:
        """Why to boot again after a failed boot, or None where that can't help and might go on for ever.

        Every try uses up a counter, so the number of these boots is bounded by the tries left in all entries.
        """
        if self.entry is None or self.entry.left is None:
            return None
        if self.entry.left:
            return f"slot {self.slot} has {count_tries(self.entry.left)} left"
        usable = [other for other in self.others if other.state != "bad"]
        return f"slot {usable[0].slot} takes over" if usable else None

    def explain(self) -> str:
        """Why this slot runs, in one sentence."""
        if self.slot is None:
            return "the kernel command line names no slot"
        failed = [other for other in self.others if other.state == "bad"]
        if self.entry is None:
            return f"the boot loader chose slot {self.slot}; its entry can't be read (as root it can)"
        if self.entry.state == "trial":
            return f"slot {self.slot} is on trial: {count_tries(self.entry.done)} used, {self.entry.left} left"
        if self.entry.state == "bad" and failed:
            return f"no slot is good: slot {self.slot} and slot {failed[0].slot} used up all their tries"
        if self.entry.state == "bad":
            return f"slot {self.slot} is on its last try"
        if failed and failed[0].done:
            bad = failed[0]
            return f"fell back to slot {self.slot}: slot {bad.slot} failed {count_tries(bad.done)}, none is left"
        if failed:
            return f"slot {self.slot} is good; slot {failed[0].slot} was rejected"
        if trial := next((other for other in self.others if other.state == "trial"), None):
            return f"slot {self.slot} is good; slot {trial.slot} is to be tried at the next boot"
        if not self.others:
            return f"slot {self.slot} is good, and no other slot has an image"
        return f"slot {self.slot} is good and the boot loader's choice"


def count_tries(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def read_boot(system: System) -> Boot:
    """Read how this boot came about."""
    chosen = boot_loader(system)
    slot, booted, entries = system.argument("edge.slot"), chosen.booted_entry(system), chosen.read_entries(system)
    mine = next((entry for entry in entries if entry.slot == slot), None)
    return Boot(
        slot,
        mine or booted,
        booted is not None,
        tuple(entry for entry in entries if entry.slot != slot),
    )
