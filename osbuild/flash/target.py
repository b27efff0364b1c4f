"""What the user wants written to: a path of the command line, found out before anything is opened for writing."""

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

# Names that the kernel gives to disks: a file of such a name was meant to be a device.
DISK = re.compile(r"(sd[a-z]+|vd[a-z]+|xvd[a-z]+|hd[a-z]|disk|mmcblk|nvme\d+n|loop|nbd|sr|md|dm-)\d*(p?\d+)?")
DEV = Path("/dev")


@dataclass(frozen=True)
class FlashTarget:
    """A block device, or a file that is one day copied to one. `size` is in bytes; None makes it the image's size."""

    path: Path
    device: BlockDevice | None
    size: int | None
    exists: bool

    @property
    def title(self) -> str:
        """By what a person tells it from others."""
        if self.device is not None:
            bus = f", {self.device.bus}" if self.device.bus else ""
            return f"{self.path} ({self.device.title}{bus})"
        return (
            f"{self.path} (a file, {format_decimal(self.size)})"
            if self.exists and self.size
            else f"{self.path} (a new file)"
        )


def find_target(path: Path, host: Host, *, size: int | None = None) -> FlashTarget:
    """What `path` stands for; `size` is that which a file is to have. Raises `Error` or `UsageError`.

    Only for a path outside of /dev that could not have been meant as a device may a file be made later.
    """
    where = str(path)
    meant = DEV in path.absolute().parents or bool(DISK.fullmatch(path.name) and len(path.parts) == 1)
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        if meant or DEV in path.resolve().parents or path.parts[0] == "dev":
            raise Error("there is no such device", where=where, hint=_similar(path, host)) from None
        return _new(path, size)
    except (OSError, RuntimeError) as error:  # the second for a link that leads back to itself
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Error(f"cannot be looked at: {reason}", where=where, hint="check the path") from error
    if stat.S_ISBLK(mode):
        if size is not None:
            raise UsageError("a device has the size that it has", where=where, hint="leave out --size")
        return _device(path, real, host)
    if meant or DEV in real.parents:
        kind = "a folder" if stat.S_ISDIR(mode) else "an ordinary file" if stat.S_ISREG(mode) else "not a block device"
        hint = _similar(path, host)
        if stat.S_ISREG(mode):
            hint = f"a mistyped command has made it; look at it, and remove it: rm {path}. {hint}"
        raise Error(f"this is {kind} where a device was meant", where=where, hint=hint)
    if not stat.S_ISREG(mode):
        raise Error("neither a device nor a file", where=where, hint="`edge-osbuild devices` lists the devices")
    return _file(path, real, host, size)


def check_target(target: FlashTarget, need: int | None, host: Host) -> None:
    """Raises `Error` if `target` may not be overwritten with an image of `need` bytes."""
    if target.device is not None:
        if found := refuse_device(host, target.device, need):
            raise Error(f"{target.device.title}: {found.reason}", where=str(target.path), hint=found.hint)
    elif target.size is not None and need is not None and target.size < need:
        hint = (
            "give --size with more, or remove the file" if target.exists else "give --size with more, or leave it out"
        )
        raise Error(f"{target.size} bytes are too few: the image has {need}", where=str(target.path), hint=hint)


def _device(path: Path, real: Path, host: Host) -> FlashTarget:
    number = real.stat().st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    found = next((device for device in host.list_devices() if device.number == name), None)
    if found is None:
        raise Error(f"the kernel knows no device {name}", where=str(path), hint=_similar(path, host))
    return FlashTarget(path, found, found.size, exists=True)


def _new(path: Path, size: int | None) -> FlashTarget:
    if not path.parent.is_dir():
        raise Error("its folder does not exist", where=str(path), hint=f"make it: mkdir -p {path.parent}")
    return FlashTarget(path, None, size, exists=False)


def _file(path: Path, real: Path, host: Host, size: int | None) -> FlashTarget:
    now = real.stat().st_size
    if not os.access(real, os.W_OK):
        raise Error("this file cannot be written", where=str(path), hint=f"chmod u+w {path}, or give another")
    if refusal := refuse_file(real, host):
        raise Error(refusal.reason, where=str(path), hint=refusal.hint)
    if size is not None and size < now:
        raise Error(f"it is larger already: {now} bytes", where=str(path), hint="remove it, or give a larger --size")
    return FlashTarget(path, None, (size or now) or None, exists=True)


def _similar(path: Path, host: Host) -> str:
    names = {device.name: device for device in host.list_devices() if device.size and device.disk is None}
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    listed = "`edge-osbuild devices` lists those that are there"
    return f"did you mean {names[near[0]].path} ({names[near[0]].title})? {listed}" if near else listed
