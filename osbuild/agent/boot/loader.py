"""Which slot runs and why, from the boot entries and their counters. The same for every boot flow."""

from dataclasses import dataclass
from typing import Protocol

from osbuild.agent.system import System
from osbuild.shared.boot_entry import BootEntry


class BootLoader(Protocol):
    """The operations that each boot loader implements."""

    def read_entries(self, system: System) -> list[BootEntry]:
        """The entry of every slot, sorted by slot; empty if the ESP cannot be read."""

    def booted_entry(self, system: System) -> BootEntry | None:
        """The entry that the boot loader chose, as it was at that time; None if it had no counter."""

    def bless(self, system: System, slot: str) -> None:
        """Mark a slot as good: its boots are not counted any more. Raises `OSError`."""

    def next_slot(self, system: System) -> str | None:
        """The slot that the boot loader starts next; None if there is nothing to boot."""

    def switch_to(self, system: System, slot: str) -> None:
        """Start a slot next, on trial with all its tries. A staged boot image replaces the current one.

        Does nothing if the slot is next already and is good or has all its tries. After a power cut, either the old or
        the new choice is in effect. Raises `FileNotFoundError` if the slot has no boot image, or another `OSError`.
        """

    def reject(self, system: System, slot: str) -> None:
        """Mark a slot as bad: it has no try left and no staged boot image. Raises `OSError`.

        A staged boot image is kept as NAME.spare, which is never booted: the next installation copies blocks from it.
        """


def boot_loader(system: System) -> BootLoader:
    """The boot loader of the running image."""
    if system.image().boot == "uboot":  # imports take time, so only the one that is needed is imported
        from osbuild.agent.boot.uboot import UBootLoader

        return UBootLoader()
    from osbuild.agent.boot.systemd_boot import SystemdBootLoader

    return SystemdBootLoader()


@dataclass(frozen=True)
class Boot:
    """Why the running slot was booted.

    `entry` is the current entry of the running slot, `counted` says whether it had a counter when the boot loader chose
    it, `others` are the entries of the other slots. If the boot state cannot be read, `entry` is what the boot loader
    passed to the kernel.
    """

    slot: str | None
    entry: BootEntry | None
    counted: bool
    others: tuple[BootEntry, ...]

    @property
    def on_trial(self) -> bool:
        """Whether the running slot is not good yet."""
        return self.entry is not None and self.entry.left is not None

    @property
    def retry_reason(self) -> str | None:
        """Why to reboot after a failed boot; None if no slot has a try left."""
        # Each of these boots uses a try, so the number of reboots is bounded by the tries left in all entries.
        if self.entry is None or self.entry.left is None:
            return None
        if self.entry.left:
            return f"slot {self.slot} has {count_tries(self.entry.left)} left"
        usable = [other for other in self.others if other.state != "bad"]
        return f"slot {usable[0].slot} is booted instead" if usable else None

    def explain(self) -> str:
        """Why this slot is running, in one sentence."""
        if self.slot is None:
            return "the kernel command line names no slot"
        failed = [other for other in self.others if other.state == "bad"]
        if self.entry is None:
            return f"the boot loader chose slot {self.slot}; its entry cannot be read without root rights"
        if self.entry.state == "trial":
            return f"slot {self.slot} is on trial: {count_tries(self.entry.done)} used, {self.entry.left} left"
        if self.entry.state == "bad" and failed:
            return f"no slot is good: slot {self.slot} and slot {failed[0].slot} used up all their tries"
        if self.entry.state == "bad":
            return f"slot {self.slot} is on its last try"
        if failed and failed[0].done:
            bad = failed[0]
            return f"fell back to slot {self.slot}: slot {bad.slot} failed {count_tries(bad.done)} and has none left"
        if failed:
            return f"slot {self.slot} is good; slot {failed[0].slot} was rejected"
        if trial := next((other for other in self.others if other.state == "trial"), None):
            return f"slot {self.slot} is good; slot {trial.slot} will be tried at the next boot"
        if not self.others:
            return f"slot {self.slot} is good, and no other slot has an image"
        return f"slot {self.slot} is good and the boot loader's choice"


def count_tries(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def read_boot(system: System) -> Boot:
    """Read the boot state. Never fails: entries that cannot be read are missing."""
    loader = boot_loader(system)
    slot, booted, entries = system.argument("edge.slot"), loader.booted_entry(system), loader.read_entries(system)
    running = next((entry for entry in entries if entry.slot == slot), None)
    return Boot(
        slot,
        running or booted,
        booted is not None,
        tuple(entry for entry in entries if entry.slot != slot),
    )
