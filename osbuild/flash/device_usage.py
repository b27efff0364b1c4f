"""What a block device is in use for, and why it must not be written to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osbuild.flash.block_device import BlockDevice, Host
from osbuild.shared.sizes import format_decimal

# Mounts that belong to the running system itself.
SYSTEM = ("/", "/usr", "/var", "/boot", "/boot/efi", "/boot/firmware", "/efi")


@dataclass(frozen=True)
class DeviceUsage:
    """One use of a device: `kind` is mounted, swap, or a layer such as LVM; `what` is where, `device` on which part."""

    kind: str
    device: str
    what: str

    def __str__(self) -> str:
        words = {"mounted": f"mounted at {self.what}", "swap": "in use as swap", "loop": f"behind {self.what}"}
        return f"{self.device} is " + words.get(self.kind, f"part of {self.kind} ({self.what})")


@dataclass(frozen=True)
class Refusal:
    """Why a device is not written to, and what to do instead."""

    reason: str
    hint: str


def list_usages(host: Host, device: BlockDevice) -> list[DeviceUsage]:
    """Everything that uses a device or a part of it, also through other devices on top of it."""
    found: list[DeviceUsage] = []
    mounts, swaps = list(_mounts(host)), list(_swaps(host))
    behind = {each.backing: each.name for each in host.list_devices() if each.backing}
    for name in (device.name, *device.partitions):
        below: dict[str, None] = {name: None}
        for holder in host.holders(name):
            if holder not in below:
                found.append(DeviceUsage(host.layer(holder), name, holder))
            below[holder] = None
        for each in below:
            node = host.find_device(each)
            numbers = {node.number} if node else set()
            found += [
                DeviceUsage("mounted", each, where)
                for number, source, where in mounts
                if number in numbers or source == each
            ]
            found += [DeviceUsage("swap", each, each) for swap in swaps if swap == each]
            if loop := behind.get(f"/dev/{each}"):
                found.append(DeviceUsage("loop", each, loop))
    return list(dict.fromkeys(found))


def refuse_device(host: Host, device: BlockDevice, need: int | None = None) -> Refusal | None:
    """Why `device` may not be overwritten with an image of `need` bytes; None if it may."""
    path = device.path
    if device.disk is not None:
        return Refusal(
            "this is a partition, and the image is that of a whole disk", f"give the disk: /dev/{device.disk}"
        )
    found = list_usages(host, device)
    if system := [use for use in found if use.kind == "mounted" and use.what in SYSTEM]:
        places = ", ".join(dict.fromkeys(use.what for use in system))
        return Refusal(
            f"this system runs from it ({places})",
            "give another disk: `edge-osbuild devices` lists them. To overwrite this one, boot from another",
        )
    if found:
        return Refusal("; ".join(str(use) for use in found), _release(found[0]))
    if device.size == 0:
        return Refusal("there is no card or disk in it", "put one in; `edge-osbuild devices` shows it then")
    if device.read_only:
        return Refusal(
            "it is read-only",
            f"slide the card's lock away from LOCK; if it has none: `blockdev --setrw {path}`. Worn-out cards stay so",
        )
    if need is not None and device.size < need:
        return Refusal(
            f"it has {device.size} bytes ({format_decimal(device.size)}), and the image has {need} "
            f"({format_decimal(need)})",
            "take a larger one, or make `disk.data` or `disk.slot` of the profile smaller",
        )
    return None


def _release(use: DeviceUsage) -> str:
    """The command that ends a use."""
    commands = {
        "mounted": f"umount {use.what}",
        "swap": f"swapoff /dev/{use.device}",
        "loop": f"losetup -d /dev/{use.what}",
        "LVM": "vgchange -an VOLUME-GROUP",
        "RAID (md)": f"mdadm --stop /dev/{use.what}",
        "LUKS": f"cryptsetup close {use.what}",
    }
    command = commands.get(use.kind)
    return "is it the right one? " + (f"If so: {command}" if command else f"If so, take it out of {use.kind} first")


def _mounts(host: Host) -> Iterator[tuple[str, str, str]]:
    """MAJOR:MINOR, name of the source's device, and place of each mount (proc_pid_mountinfo(5))."""
    for line in _lines(host.root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) >= 5 and len(more) >= 2:
            yield fields[2], _name(host, _unescaped(more[1])), _unescaped(fields[4])


def swap_areas(host: Host) -> Iterator[Path]:
    """Devices and files in /proc/swaps (proc_swaps(5))."""
    for line in _lines(host.root / "proc/swaps")[1:]:
        if line.startswith("/"):
            yield Path(_unescaped(line.split()[0]))


def _swaps(host: Host) -> Iterator[str]:
    """Names of the devices in use as swap."""
    return (_name(host, str(area)) for area in swap_areas(host) if str(area).startswith("/dev/"))


def _name(host: Host, source: str) -> str:
    """A device's name in sysfs, links such as /dev/disk/by-uuid/… and /dev/mapper/… followed."""
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
    """The kernel writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
