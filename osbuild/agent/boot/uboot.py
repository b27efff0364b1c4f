"""Boot entries of boards with U-Boot: images on the boot partition, counted in the slots' state beside it.

What was staged gets its name while the slot has no try: it is started once the state says so, which is one write. What
a power cut leaves of a rename is as `osbuild.agent.boot.systemd_boot` says.
"""

import errno
import re
from pathlib import Path

from osbuild.agent.boot.entry_files import remove_names
from osbuild.agent.system import System
from osbuild.shared import uboot_state
from osbuild.shared.boot_entry import BootEntry
from osbuild.shared.files import sync_path
from osbuild.shared.uboot_state import BootCounter

IMAGES = "/efi"
NAME = re.compile(r"edge-[a-z]\.img")
TRIES = re.compile(r"([0-9a-f]+)-([0-9a-f]+)")
ROOT = "/sys/block/dm-0/slaves"  # the partitions below the root that dm-verity checks


class UBootLoader:
    """See `osbuild.agent.boot.loader.Flow`."""

    def read_entries(self, system: System) -> list[BootEntry]:
        try:
            names = list_boot_images(system)
            state = uboot_state.read_state(find_state_partition(system))
        except OSError:
            return []
        counters = {slot: state.counter(slot) for slot in sorted(names)}
        return [BootEntry(names[slot], slot, counter.left, counter.done) for slot, counter in counters.items()]

    def booted_entry(self, system: System) -> BootEntry | None:
        """boot.scr adds `edge.tries=LEFT-DONE` to the kernel command line of a boot that it counts."""
        slot, match = system.argument("edge.slot"), TRIES.fullmatch(system.argument("edge.tries") or "")
        return BootEntry(f"edge-{slot}.img", slot, int(match[1], 16), int(match[2], 16)) if slot and match else None

    def bless(self, system: System, slot: str) -> None:
        uboot_state.change_state(find_state_partition(system), lambda state: state.with_good(slot))

    def next_slot(self, system: System) -> str | None:
        try:
            return uboot_state.read_state(find_state_partition(system)).next_slot(list_boot_images(system))
        except OSError:
            return None

    def switch_to(self, system: System, slot: str) -> None:
        image, staged = boot_image_paths(system, slot)
        if slot not in list_boot_images(system):
            if not staged.is_file():
                raise FileNotFoundError(errno.ENOENT, "there is nothing to boot", f"slot {slot}")
            # No tries done either: with those of an earlier image a cut here would look as if this one had failed.
            uboot_state.change_state(
                find_state_partition(system), lambda state: state.with_counter(slot, BootCounter(0))
            )
            staged.replace(image)
            sync_path(image.parent)
        uboot_state.change_state(find_state_partition(system), lambda state: state.with_switch(slot))

    def reject(self, system: System, slot: str) -> None:
        uboot_state.change_state(find_state_partition(system), lambda state: state.with_rejected(slot))
        image, staged = boot_image_paths(system, slot)
        spare = staged.with_suffix(".spare")
        if staged.exists() and not (slot in list_boot_images(system) or spare.exists()):
            staged.replace(spare)
        elif staged.exists():
            remove_names([image, staged, spare], staged.with_suffix(".partial"))
        sync_path(image.parent)


def list_boot_images(system: System) -> dict[str, str]:
    """Slot -> name of its image, of those that are there and not empty. Raises `OSError`."""
    paths = [path for path in system.path(IMAGES).iterdir() if NAME.fullmatch(path.name)]
    return {path.stem.removeprefix("edge-"): path.name for path in paths if path.is_file() and path.stat().st_size}


def boot_image_paths(system: System, slot: str) -> tuple[Path, Path]:
    """A slot's image, and what an installation leaves to be switched to."""
    return system.path(IMAGES) / f"edge-{slot}.img", system.path(IMAGES) / f"edge-{slot}.img.staged"


def find_state_partition(system: System) -> Path:
    """The partition with the slots' state, on the disk that the root is on. Raises `OSError` where there is none.

    Not by its label: a second card in the machine may have the same one.
    """
    for part in system.path(ROOT).iterdir():
        for entry in (part.resolve() / "..").resolve().glob("*/uevent"):
            metadata = dict(line.partition("=")[::2] for line in entry.read_text().splitlines())
            if metadata.get("PARTNAME") == uboot_state.PARTITION:
                return system.path("/dev") / metadata["DEVNAME"]
    raise FileNotFoundError(2, "no such partition beside the root", uboot_state.PARTITION)
