"""A target that is open for writing, with direct I/O if possible, so that errors of the disk are noticed at once."""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.flash.target import FlashTarget
from osbuild.shared.errors import Error
from osbuild.shared.locks import lock_descriptor

# <linux/fs.h>; the last one includes the size of size_t, which is 8 bytes on every 64-bit host
BLKROGET, BLKRRPART, BLKFLSBUF, BLKGETSIZE64 = 0x125E, 0x125F, 0x1261, 0x80081272
SYNC = 64 * 2**20  # bytes between two flushes without direct I/O
GONE = {errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESHUTDOWN}
LOCKED = {errno.EROFS, errno.EPERM, errno.EACCES}
LOCK_TIMEOUT = 5.0  # seconds
SECTOR = 4096  # the largest sector size of a disk


def page_buffer(size: int) -> memoryview:
    """Return a buffer of at least `size` bytes, aligned to a page, as O_DIRECT requires (open(2))."""
    return memoryview(mmap.mmap(-1, -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE))


class OpenTarget:
    """`size` is in bytes, a multiple of `sector`. All methods raise `Error` if the disk or file fails."""

    def __init__(self, target: FlashTarget, descriptor: int, *, direct: bool, size: int) -> None:
        self.target, self.size, self._file, self._direct = target, size, descriptor, direct
        self.sector = target.device.sector if target.device else 512
        self._unsynced = 0

    def write(self, offset: int, view: memoryview) -> None:
        """Write `view`, aligned to a page, at `offset`. Offset and length are multiples of the sector size."""
        if offset + len(view) > self.size:
            raise Error(f"the image is larger than the {self.size} bytes of this target", where=self._where)
        written = 0
        try:
            while written < len(view):
                written += os.pwrite(self._file, view[written:], offset + written)
            self._unsynced += written
            if not self._direct and self._unsynced >= SYNC:
                os.fdatasync(self._file)
                self._unsynced = 0
        except OSError as error:
            raise self._explained(error, "writing", offset + written) from error

    def write_small(self, offset: int, data: bytes) -> None:
        """Write unaligned bytes. Offset and length are multiples of the sector size."""
        aligned = page_buffer(len(data))[: len(data)]
        aligned[:] = data
        self.write(offset, aligned)

    def read(self, offset: int, view: memoryview) -> None:
        """Fill `view`, aligned to a page, from `offset`."""
        count_read = 0
        try:
            while count_read < len(view):
                count = os.preadv(self._file, [view[count_read:]], offset + count_read)
                if not count:
                    raise OSError(errno.ENOSPC, "the target ends there")
                count_read += count
        except OSError as error:
            raise self._explained(error, "reading", offset + count_read) from error

    def read_small(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, both multiples of the sector size."""
        aligned = page_buffer(size)[:size]
        self.read(offset, aligned)
        return bytes(aligned)

    def flush(self) -> None:
        """Write everything to the disk, and drop the kernel's cache, so that later reads come from the disk."""
        try:
            os.fsync(self._file)
            if self.target.device is not None:
                fcntl.ioctl(self._file, BLKFLSBUF, 0)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._explained(error, "flushing", None) from error

    def reread_partitions(self) -> None:
        """Let the kernel reread the partition table; loop devices without partition support refuse it."""
        if self.target.device is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._file, BLKRRPART, 0)

    @property
    def _where(self) -> str:
        return str(self.target.path)

    def _explained(self, error: OSError, doing: str, offset: int | None) -> Error:
        """Return an I/O error of an SD card or disk as an `Error` for the user."""
        position = "" if offset is None else f" at byte {offset} of {self.size}"
        again = "Then run the same command again: it continues where it stopped"
        if self._gone(error):
            message = f"the device was removed or stopped responding while {doing}{position}"
            return Error(message, where=self._where, hint=f"insert it again (`edge-osbuild devices`). {again}")
        if self.target.device is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = f"no space is left for this file{position}: {error.strerror}"
            return Error(message, where=self._where, hint=f"free some space. {again}")
        if error.errno in LOCKED or self._read_only() or (doing != "reading" and self._unwritable()):
            message = f"it became read-only while {doing}{position}, as a worn-out SD card does"
            return Error(
                message, where=self._where, hint=f"move its switch away from LOCK, or use another card. {again}"
            )
        if error.errno == errno.ENOSPC or (offset is not None and self._ends_early()):
            message = f"it is smaller than the {self.size} bytes that it reports: {doing}{position} fails"
            return Error(message, where=self._where, hint="the SD card is counterfeit or broken: use another card")
        message = f"{error.strerror} while {doing}{position}"
        return Error(message, where=self._where, hint=f"the card or its reader is failing: try another one. {again}")

    def _gone(self, error: OSError) -> bool:
        if error.errno in GONE or self.target.device is None:
            return error.errno in GONE
        try:
            return not struct.unpack("Q", fcntl.ioctl(self._file, BLKGETSIZE64, bytes(8)))[0]
        except OSError:
            return True

    def _read_only(self) -> bool:
        if self.target.device is None:
            return False
        try:
            return bool(struct.unpack("i", fcntl.ioctl(self._file, BLKROGET, bytes(4)))[0])
        except OSError:
            return False

    def _unwritable(self) -> bool:
        """Whether the beginning can be read, but the same bytes can't be written back."""
        present = page_buffer(SECTOR)[:SECTOR]
        try:
            if os.preadv(self._file, [present], 0) != SECTOR:
                return False
        except OSError:
            return False
        try:
            os.pwrite(self._file, present, 0)
            os.fdatasync(self._file)
        except OSError:
            return self._readable(0)
        return False

    def _ends_early(self) -> bool:
        """Whether the beginning can be read, but the end can't."""
        return self._readable(0) and not self._readable(self.size // SECTOR * SECTOR - SECTOR)

    def _readable(self, offset: int) -> bool:
        try:
            return os.preadv(self._file, [page_buffer(SECTOR)[:SECTOR]], max(0, offset)) == SECTOR
        except OSError:
            return False


@contextmanager
def open_target(target: FlashTarget, size: int, *, private: bool) -> Iterator[OpenTarget]:
    """Open a target exclusively. A file is resized to `size` bytes; `private` makes it readable by its owner only.

    Raises `Error` if the target is in use or can't be opened.
    """
    # With O_EXCL, the kernel refuses a device that is mounted or used by another device (open(2)). The lock keeps udev
    # from probing it (systemd.io, "Locking Block Device Access").
    flags = os.O_RDWR | os.O_CLOEXEC
    flags |= os.O_EXCL if target.device else os.O_CREAT if not target.exists else 0
    direct = True
    try:
        try:
            descriptor = os.open(target.path, flags | os.O_DIRECT, 0o600 if private else 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            direct, descriptor = False, os.open(target.path, flags, 0o600 if private else 0o666)
    except OSError as error:
        raise _unopened(target, error) from error
    try:
        try:
            # udev locks a card that was just put in while it looks at it: it gets some seconds to finish.
            lock_descriptor(descriptor, patience=LOCK_TIMEOUT)
            if target.device is None:
                if private:
                    os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, size)
        except OSError as error:
            raise _unopened(target, error) from error
        yield OpenTarget(target, descriptor, direct=direct, size=size)
    finally:
        os.close(descriptor)


def _unopened(target: FlashTarget, error: OSError) -> Error:
    where = str(target.path)
    if error.errno in (errno.EBUSY, errno.EWOULDBLOCK):
        hint = "check that it is the right device, then end the programs that use it (`lsblk`, `fuser -v`)"
        return Error("it is in use by another program", where=where, hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run this as root" if target.device else "check the permissions of the file and its folder"
        return Error("no permission to write to it", where=where, hint=hint)
    if error.errno == errno.EROFS:
        return Error("it is read-only", where=where, hint="move the card's switch away from LOCK, or use another card")
    if error.errno in GONE:
        return Error("it contains no SD card", where=where, hint="insert one; `edge-osbuild devices` then lists it")
    return Error(f"cannot be opened: {error.strerror}", where=where, hint=f"check that {Path(where).parent} exists")
