"""Finds the reasons why a regular file must not be overwritten in place."""

import fcntl
import os
import struct
from pathlib import Path

from osbuild.flash.block_device import Host
from osbuild.flash.device_usage import Refusal, swap_areas
from osbuild.inputs.build_manifest import Manifest

FLOCK = struct.Struct("hhqqi4x")  # struct flock of a 64-bit host (fcntl_locking(2))


def refuse_file(path: Path, host: Host) -> Refusal | None:
    """Return why the file `path`, with links resolved, must not be written to; None if it may be. Raises `OSError`."""
    for device in host.list_devices():
        if device.backing and is_same_file(Path(device.backing), path):
            hint = f"name {device.path} instead, or detach it: losetup -d {device.path}"
            return Refusal(f"this file is in use as {device.path}", hint)
    if any(is_same_file(area, path) for area in swap_areas(host)):
        return Refusal("this file is in use as swap", f"check that it is the right file, then: swapoff {path}")
    copy = f"write to a copy: cp --sparse=always {path} COPY"
    if belongs_to_build(path):
        return Refusal("this file belongs to a build: later uses of that build would contain the change", copy)
    if path.stat().st_nlink > 1:
        return Refusal("this file has another name (a hard link), whose contents would change too", copy)
    if has_range_lock(path):
        return Refusal("another program, such as QEMU, has locked this file", "end that program first")
    return None


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths are the same file; False for one that is missing."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def belongs_to_build(path: Path) -> bool:
    """Whether a build manifest in the same folder names the file."""
    manifest = Manifest.find(path)
    return manifest is not None and any(is_same_file(path.with_name(name), path) for name in manifest.files)


def has_range_lock(path: Path) -> bool:
    """Whether another program, such as QEMU, holds a lock on any byte (fcntl(2), "Open file description locks")."""
    query = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with path.open("rb") as file:
        try:
            kind: int = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, query))[0]
        except OSError:  # a file system without locks
            return False
    return kind != fcntl.F_UNLCK
