"""Why an ordinary file must not be written in place: something else uses it, or depends on its contents."""

import fcntl
import os
import struct
from pathlib import Path

from osbuild.flash.block_device import Host
from osbuild.flash.device_usage import Refusal, swap_areas
from osbuild.inputs.build_manifest import Manifest

FLOCK = struct.Struct("hhqqi4x")  # struct flock of a 64-bit host (fcntl_locking(2))


def refuse_file(path: Path, host: Host) -> Refusal | None:
    """Why the file `path`, without links, may not be written to; None if it may. Raises `OSError`."""
    for device in host.list_devices():
        if device.backing and is_same_file(Path(device.backing), path):
            hint = f"give {device.path} itself, or detach it: losetup -d {device.path}"
            return Refusal(f"this file is in use as {device.path}", hint)
    if any(is_same_file(area, path) for area in swap_areas(host)):
        return Refusal("this file is in use as swap", f"is it the right one? If so: swapoff {path}")
    copy = f"write to a copy: cp --sparse=always {path} COPY"
    if belongs_to_build(path):
        return Refusal("this file belongs to a build: whatever is made of that build later would contain it", copy)
    if path.stat().st_nlink > 1:
        return Refusal("this file has another name too (a hard link), which would change with it", copy)
    if has_range_lock(path):
        return Refusal("another program has locked this file, such as a QEMU that runs from it", "end that one first")
    return None


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths are the same file; False for one that is missing."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def belongs_to_build(path: Path) -> bool:
    """Whether the manifest of a build, in the same folder, names the file."""
    manifest = Manifest.find(path)
    return manifest is not None and any(is_same_file(path.with_name(name), path) for name in manifest.files)


def has_range_lock(path: Path) -> bool:
    """Whether another program holds a lock on any byte (fcntl(2), "Open file description locks"), as QEMU does."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with path.open("rb") as file:
        try:
            kind: int = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))[0]
        except OSError:  # a file system without locks
            return False
    return kind != fcntl.F_UNLCK
