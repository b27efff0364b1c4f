"""Resolves a target path of the command line, before anything is opened for writing."""

import os
import re
import stat
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from osbuild.flash.block_device import BlockDevice, Host
from osbuild.flash.device_usage import refuse_device
from osbuild.flash.file_usage import refuse_file
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.sizes import format_decimal

# The kernel's names of disks. A user who names such a file means a device.
DISK = re.compile(r"(sd[a-z]+|vd[a-z]+|xvd[a-z]+|hd[a-z]|disk|mmcblk|nvme\d+n|loop|nbd|sr|md|dm-)\d*(p?\d+)?")
DEV = Path("/dev")


@dataclass(frozen=True)
class FlashTarget:
    """A block device, or a file with a disk image. `size` is in bytes; None is the image's size."""

    path: Path
    device: BlockDevice | None
    size: int | None
    exists: bool

    @property
    def title(self) -> str:
        """Path, model and size, for the user."""
        if self.device is not None:
            bus = f", {self.device.bus}" if self.device.bus else ""
            return f"{self.path} ({self.device.title}{bus})"
        return (
            f"{self.path} (a file, {format_decimal(self.size)})"
            if self.exists and self.size
            else f"{self.path} (a new file)"
        )


def find_target(path: Path, host: Host, *, size: int | None = None) -> FlashTarget:
    """Resolve `path`; `size` is the requested size of a file. Raises `Error` or `UsageError`.

    A missing path is a new file only if it is outside /dev and does not look like a device.
    """
    where = str(path)
    is_device_name = DEV in path.absolute().parents or bool(DISK.fullmatch(path.name) and len(path.parts) == 1)
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        if is_device_name or DEV in path.resolve().parents or path.parts[0] == "dev":
            raise Error("this device does not exist", where=where, hint=_similar_device(path, host)) from None
        return _new_file(path, size)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads back to itself
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Error(f"cannot be accessed: {reason}", where=where, hint="check the path") from error
    if stat.S_ISBLK(mode):
        if size is not None:
            raise UsageError("the size of a device can't be changed", where=where, hint="omit --size")
        return _device(path, real, host)
    if is_device_name or DEV in real.parents:
        kind = "a folder" if stat.S_ISDIR(mode) else "a regular file" if stat.S_ISREG(mode) else "not a block device"
        hint = _similar_device(path, host)
        if stat.S_ISREG(mode):
            hint = f"a mistyped command may have created it; check it, and remove it: rm {path}. {hint}"
        raise Error(f"this is {kind}, but a device was expected", where=where, hint=hint)
    if not stat.S_ISREG(mode):
        raise Error(
            "this is neither a block device nor a file", where=where, hint="`edge-osbuild devices` lists the devices"
        )
    return _existing_file(path, real, host, size)


def check_target(target: FlashTarget, need: int | None, host: Host) -> None:
    """Raise `Error` if `target` must not be overwritten with an image of `need` bytes."""
    if target.device is not None:
        if refusal := refuse_device(host, target.device, need):
            raise Error(f"{target.device.title}: {refusal.reason}", where=str(target.path), hint=refusal.hint)
    elif target.size is not None and need is not None and target.size < need:
        hint = "pass a larger --size, or remove the file" if target.exists else "pass a larger --size, or omit it"
        raise Error(f"{target.size} bytes are not enough: the image needs {need}", where=str(target.path), hint=hint)


def _device(path: Path, real: Path, host: Host) -> FlashTarget:
    number = real.stat().st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    device = next((device for device in host.list_devices() if device.number == name), None)
    if device is None:
        raise Error(f"the kernel has no device {name}", where=str(path), hint=_similar_device(path, host))
    return FlashTarget(path, device, device.size, exists=True)


def _new_file(path: Path, size: int | None) -> FlashTarget:
    if not path.parent.is_dir():
        raise Error("its folder does not exist", where=str(path), hint=f"create it: mkdir -p {path.parent}")
    return FlashTarget(path, None, size, exists=False)


def _existing_file(path: Path, real: Path, host: Host, size: int | None) -> FlashTarget:
    current_size = real.stat().st_size
    if not os.access(real, os.W_OK):
        raise Error("this file cannot be written", where=str(path), hint=f"chmod u+w {path}, or name another file")
    if refusal := refuse_file(real, host):
        raise Error(refusal.reason, where=str(path), hint=refusal.hint)
    if size is not None and size < current_size:
        hint = "remove it, or pass a larger --size"
        raise Error(f"this file is larger already: {current_size} bytes", where=str(path), hint=hint)
    return FlashTarget(path, None, (size or current_size) or None, exists=True)


def _similar_device(path: Path, host: Host) -> str:
    names = {device.name: device for device in host.list_devices() if device.size and device.disk is None}
    suggestions = get_close_matches(path.name, names, n=1, cutoff=0.5)
    list_hint = "`edge-osbuild devices` lists all devices"
    if not suggestions:
        return list_hint
    return f"did you mean {names[suggestions[0]].path} ({names[suggestions[0]].title})? {list_hint}"
