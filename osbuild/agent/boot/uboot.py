"""Boot entries of U-Boot boards: boot images on the ESP, and a boot state in the partition `uboot-env`.

A switch first sets the tries of the slot to 0, then renames the staged boot image, then gives the slot its tries with
one atomic write. For the effect of a power cut on a rename, see `osbuild.agent.boot.systemd_boot`.
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
ROOT = "/sys/block/dm-0/slaves"  # the partitions below the dm-verity device of the root file system


class UBootLoader:
    """Implements `osbuild.agent.boot.loader.BootLoader`."""

    def read_entries(self, system: System) -> list[BootEntry]:
        try:
            names = list_boot_images(system)
            state = uboot_state.read_state(find_state_partition(system))
        except OSError:
            return []
        counters = {slot: state.counter(slot) for slot in sorted(names)}
        return [BootEntry(names[slot], slot, counter.left, counter.done) for slot, counter in counters.items()]

    def booted_entry(self, system: System) -> BootEntry | None:
        """The entry from `edge.tries=LEFT-DONE`, which boot.scr adds to the kernel command line of a counted boot."""
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
                raise FileNotFoundError(errno.ENOENT, "the slot has no boot image", f"slot {slot}")
            # `done` is reset too. Otherwise, after a power cut here, the failures of the previous image would count
            # for the new one.
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
    """Slot -> name of its boot image, for all images that are not empty. Raises `OSError`."""
    paths = [path for path in system.path(IMAGES).iterdir() if NAME.fullmatch(path.name)]
    return {path.stem.removeprefix("edge-"): path.name for path in paths if path.is_file() and path.stat().st_size}


def boot_image_paths(system: System, slot: str) -> tuple[Path, Path]:
    """The boot image of a slot, and the staged boot image."""
    return system.path(IMAGES) / f"edge-{slot}.img", system.path(IMAGES) / f"edge-{slot}.img.staged"


def find_state_partition(system: System) -> Path:
    """The partition `uboot-env` on the disk of the root file system. Raises `OSError` if there is none."""
    # Not searched by its label: a second card in the device may have the same label.
    for part in system.path(ROOT).iterdir():
        for uevent in (part.resolve() / "..").resolve().glob("*/uevent"):
            fields = dict(line.partition("=")[::2] for line in uevent.read_text().splitlines())
            if fields.get("PARTNAME") == uboot_state.PARTITION:
                return system.path("/dev") / fields["DEVNAME"]
    raise FileNotFoundError(2, "the disk of the root file system has no such partition", uboot_state.PARTITION)
