"""Finds the users of a block device, and the reasons why it must not be written to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osbuild.flash.block_device import BlockDevice, Host
from osbuild.shared.sizes import format_decimal

# Mount points of the running system.
SYSTEM = ("/", "/usr", "/var", "/boot", "/boot/efi", "/boot/firmware", "/efi")


@dataclass(frozen=True)
class DeviceUsage:
    """One use of a device. `kind` is mounted, swap, loop, or a layer such as LVM.

    `user` is the mount point or the device on top; `device` is the name of the used disk or partition.
    """

    kind: str
    device: str
    user: str

    def __str__(self) -> str:
        uses = {"mounted": f"mounted at {self.user}", "swap": "in use as swap", "loop": f"in use as {self.user}"}
        return f"{self.device} is " + uses.get(self.kind, f"part of {self.kind} ({self.user})")


@dataclass(frozen=True)
class Refusal:
    """Why a device or file is not written to, with a hint."""

    reason: str
    hint: str


def list_usages(host: Host, device: BlockDevice) -> list[DeviceUsage]:
    """Return every use of a device or its partitions, including uses of devices on top of them."""
    usages: list[DeviceUsage] = []
    mounts, swaps = list(_mounts(host)), list(_swaps(host))
    loops = {loop.backing: loop.name for loop in host.list_devices() if loop.backing}
    for name in (device.name, *device.partitions):
        stack: dict[str, None] = {name: None}
        for holder in host.holders(name):
            if holder not in stack:
                usages.append(DeviceUsage(host.layer(holder), name, holder))
            stack[holder] = None
        for used in stack:
            node = host.find_device(used)
            numbers = {node.number} if node else set()
            usages += [
                DeviceUsage("mounted", used, mount_point)
                for number, source, mount_point in mounts
                if number in numbers or source == used
            ]
            usages += [DeviceUsage("swap", used, used) for swap in swaps if swap == used]
            if loop_name := loops.get(f"/dev/{used}"):
                usages.append(DeviceUsage("loop", used, loop_name))
    return list(dict.fromkeys(usages))


def refuse_device(host: Host, device: BlockDevice, need: int | None = None) -> Refusal | None:
    """Return why `device` must not be overwritten with an image of `need` bytes; None if it may be."""
    path = device.path
    if device.disk is not None:
        return Refusal("this is a partition, but the image is for a whole disk", f"name the disk: /dev/{device.disk}")
    usages = list_usages(host, device)
    if system := [usage for usage in usages if usage.kind == "mounted" and usage.user in SYSTEM]:
        mount_points = ", ".join(dict.fromkeys(usage.user for usage in system))
        return Refusal(
            f"this system runs from it ({mount_points})",
            "name another disk: `edge-osbuild devices` lists them. To overwrite this one, boot from another disk",
        )
    if usages:
        return Refusal("; ".join(str(usage) for usage in usages), _release_hint(usages[0]))
    if device.size == 0:
        return Refusal("it contains no SD card or disk", "insert one; `edge-osbuild devices` then lists it")
    if device.read_only:
        return Refusal(
            "it is read-only",
            f"move the SD card's switch away from LOCK, or run `blockdev --setrw {path}`; "
            "a worn-out card stays read-only",
        )
    if need is not None and device.size < need:
        return Refusal(
            f"the disk has {device.size} bytes ({format_decimal(device.size)}), but the image needs {need} "
            f"({format_decimal(need)})",
            "use a larger disk, or reduce `disk.data` or `disk.slot` in the profile",
        )
    return None


def _release_hint(usage: DeviceUsage) -> str:
    """Return the hint with the command that ends a use."""
    commands = {
        "mounted": f"umount {usage.user}",
        "swap": f"swapoff /dev/{usage.device}",
        "loop": f"losetup -d /dev/{usage.user}",
        "LVM": "vgchange -an VOLUME-GROUP",
        "RAID (md)": f"mdadm --stop /dev/{usage.user}",
        "LUKS": f"cryptsetup close {usage.user}",
    }
    command = commands.get(usage.kind)
    return "check that it is the right disk, then: " + (command or f"remove it from {usage.kind}")


def _mounts(host: Host) -> Iterator[tuple[str, str, str]]:
    """Yield MAJOR:MINOR, name of the source device, and mount point of each mount (proc_pid_mountinfo(5))."""
    for line in _lines(host.root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, source_fields = before.split(), after.split()
        if len(fields) >= 5 and len(source_fields) >= 2:
            yield fields[2], _name(host, _unescaped(source_fields[1])), _unescaped(fields[4])


def swap_areas(host: Host) -> Iterator[Path]:
    """Yield the devices and files in /proc/swaps (proc_swaps(5))."""
    for line in _lines(host.root / "proc/swaps")[1:]:
        if line.startswith("/"):
            yield Path(_unescaped(line.split()[0]))


def _swaps(host: Host) -> Iterator[str]:
    """Yield the names of the devices in use as swap."""
    return (_name(host, str(area)) for area in swap_areas(host) if str(area).startswith("/dev/"))


def _name(host: Host, source: str) -> str:
    """Return a device's name in sysfs. Links such as /dev/disk/by-uuid/… and /dev/mapper/… are resolved."""
    if not source.startswith("/dev/"):
        return ""
    path = host.root / source.lstrip("/")
    return (path.resolve() if path.is_symlink() else Path(source)).name


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(text: str) -> str:
    """Decode octal escapes, which the kernel uses for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
