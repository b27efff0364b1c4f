"""Boot entries on the EFI system partition and their counters (Automatic Boot Assessment, systemd-boot(7))."""

import re
from dataclasses import dataclass

from osbuild.agent.system import System

ENTRIES = "/efi/EFI/Linux"
# The boot loader's variables (Boot Loader Interface); the path of the entry that was booted, if it had a counter.
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
NAME = re.compile(r"(?P<id>[A-Za-z0-9][^+]*-(?P<slot>[^+-]+))(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?\.efi")


@dataclass(frozen=True)
class Entry:
    """One slot's entry. `left` and `done` are tries; `left` is None once the slot has been found good."""

    file: str
    slot: str
    left: int | None
    done: int

    @property
    def state(self) -> str:
        """`good`, `trial`, or `bad` where every try was used."""
        if self.left is None:
            return "good"
        return "trial" if self.left else "bad"


def parse(file: str) -> Entry | None:
    """An entry from its file name: `edge-a.efi`, `edge-a+3.efi`, `edge-a+2-1.efi`."""
    if not (found := NAME.fullmatch(file)):
        return None
    left = found["left"]
    return Entry(file, found["slot"], None if left is None else int(left), int(found["done"] or 0))


@dataclass(frozen=True)
class Boot:
    """How this boot came about.

    `entry` is the running slot's entry as it is now, `counted` whether it had a counter when the boot loader chose
    it, `others` the other slots' entries. Without access to the partition `entry` is what the boot loader said.
    """

    slot: str | None
    entry: Entry | None
    counted: bool
    others: tuple[Entry, ...]

    @property
    def on_trial(self) -> bool:
        """This boot still has to show that it is good."""
        return self.entry is not None and self.entry.left is not None

    @property
    def retry(self) -> str | None:
        """Why to boot again after a failed boot, or None where that can't help and might go on for ever.

        Every try uses up a counter, so the number of these boots is bounded by the tries left in all entries.
        """
        if self.entry is None or self.entry.left is None:
            return None
        if self.entry.left:
            return f"slot {self.slot} has {tries(self.entry.left)} left"
        usable = [other for other in self.others if other.state != "bad"]
        return f"slot {usable[0].slot} takes over" if usable else None

    def why(self) -> str:
        """Why this slot runs, in one sentence."""
        if self.slot is None:
            return "the kernel command line names no slot"
        failed = [other for other in self.others if other.state == "bad"]
        if self.entry is None:
            return f"the boot loader chose slot {self.slot}; its entry can't be read (as root it can)"
        if self.entry.state == "trial":
            return f"slot {self.slot} is on trial: {tries(self.entry.done)} used, {self.entry.left} left"
        if self.entry.state == "bad" and failed:
            return f"no slot is good: slot {self.slot} and slot {failed[0].slot} used up all their tries"
        if self.entry.state == "bad":
            return f"slot {self.slot} is on its last try"
        if failed:
            bad = failed[0]
            return f"fell back to slot {self.slot}: slot {bad.slot} failed {tries(bad.done)}, none is left"
        if trial := next((other for other in self.others if other.state == "trial"), None):
            return f"slot {self.slot} is good; slot {trial.slot} is to be tried at the next boot"
        if not self.others:
            return f"slot {self.slot} is good, and no other slot has an image"
        return f"slot {self.slot} is good and the boot loader's choice"


def tries(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def boot(system: System) -> Boot:
    """Read how this boot came about."""
    slot = system.argument("edge.slot")
    booted = parse(variable(system, COUNTED).rpartition("\\")[2].rpartition("/")[2])
    entries = list_entries(system)
    mine = next((entry for entry in entries if entry.slot == slot), None)
    return Boot(
        slot,
        mine or booted,
        booted is not None,
        tuple(entry for entry in entries if entry.slot != slot),
    )


def list_entries(system: System) -> list[Entry]:
    """Every slot's entry, sorted by slot; empty where the partition can't be read."""
    try:
        names = sorted(path.name for path in system.path(ENTRIES).iterdir())
    except OSError:
        return []
    return sorted((entry for name in names if (entry := parse(name))), key=lambda entry: entry.slot)


def variable(system: System, name: str) -> str:
    """An EFI variable's text: four bytes of attributes, then UTF-16 (kernel documentation, efivarfs)."""
    try:
        data = system.path(name).read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
