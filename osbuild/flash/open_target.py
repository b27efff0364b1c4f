"""A target that is open for writing: bytes go to the medium itself, past the kernel's cache where that is possible."""

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

# <linux/fs.h>; the last depends on the size of a size_t, which is 8 bytes on every 64-bit host
BLKROGET, BLKRRPART, BLKFLSBUF, BLKGETSIZE64 = 0x125E, 0x125F, 0x1261, 0x80081272
SYNC = 64 * 2**20  # bytes between two flushes where the cache cannot be passed by
GONE = {errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESHUTDOWN}
LOCKED = {errno.EROFS, errno.EPERM, errno.EACCES}
PATIENCE = 5.0  # seconds
SECTOR = 4096  # what every disk can address; its own sectors are no larger


def page_buffer(size: int) -> memoryview:
    """At least `size` bytes at a page's beginning, as open(2) wants them for O_DIRECT; gone with their last use."""
    return memoryview(mmap.mmap(-1, -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE))


class OpenTarget:
    """`size` is in bytes, a multiple of `sector`. Every method raises `Error` where the medium does."""

    def __init__(self, target: FlashTarget, descriptor: int, *, direct: bool, size: int) -> None:
        self.target, self.size, self._file, self._direct = target, size, descriptor, direct
        self.sector = target.device.sector if target.device else 512
        self._unsynced = 0

    def write(self, offset: int, view: memoryview) -> None:
        """Write at `offset`; both it and the length are multiples of the sector, `view` at a page's beginning."""
        if offset + len(view) > self.size:
            raise Error(f"the image is larger than the {self.size} bytes that this takes", where=self._where)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._file, view[done:], offset + done)
            self._unsynced += done
            if not self._direct and self._unsynced >= SYNC:
                os.fdatasync(self._file)
                self._unsynced = 0
        except OSError as error:
            raise self._explained(error, "writing", offset + done) from error

    def write_small(self, offset: int, data: bytes) -> None:
        """Write bytes from anywhere in memory; `offset` and length are still whole sectors."""
        aligned = page_buffer(len(data))[: len(data)]
        aligned[:] = data
        self.write(offset, aligned)

    def read(self, offset: int, view: memoryview) -> None:
        """Fill `view`, which is at a page's beginning, from `offset`."""
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._file, [view[done:]], offset + done)
                if not count:
                    raise OSError(errno.ENOSPC, "it ends there")
                done += count
        except OSError as error:
            raise self._explained(error, "reading", offset + done) from error

    def read_small(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`, both whole sectors."""
        aligned = page_buffer(size)[:size]
        self.read(offset, aligned)
        return bytes(aligned)

    def flush(self) -> None:
        """Return when everything is on the medium, and forget what the kernel keeps of it, so that it is read anew."""
        try:
            os.fsync(self._file)
            if self.target.device is not None:
                fcntl.ioctl(self._file, BLKFLSBUF, 0)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._explained(error, "flushing", None) from error

    def reread_partitions(self) -> None:
        """Tell the kernel of the new table; a loop device without partitions does not take it."""
        if self.target.device is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._file, BLKRRPART, 0)

    @property
    def _where(self) -> str:
        return str(self.target.path)

    def _explained(self, error: OSError, doing: str, offset: int | None) -> Error:
        """What an error of the kernel means for a card."""
        place = "" if offset is None else f" at byte {offset} of {self.size}"
        again = "Then run the same command again: it goes on where it stopped"
        if self._gone(error):
            message = f"the device is gone: it was pulled out, or has stopped answering, while {doing}{place}"
            return Error(message, where=self._where, hint=f"put it back in (`edge-osbuild devices`). {again}")
        if self.target.device is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = f"no space is left for this file{place}: {error.strerror}"
            return Error(message, where=self._where, hint=f"make room. {again}")
        if error.errno in LOCKED or self._read_only() or (doing != "reading" and self._unwritable()):
            message = f"it has become read-only while {doing}{place}: a worn-out card does that, and so does its lock"
            return Error(
                message, where=self._where, hint=f"slide its lock away from LOCK, or use another card. {again}"
            )
        if error.errno == errno.ENOSPC or (offset is not None and self._ends_early()):
            message = f"it ends early: it claims {self.size} bytes, and {doing}{place} fails"
            return Error(message, where=self._where, hint="a counterfeit or broken card: use another")
        message = f"{error.strerror}, while {doing}{place}"
        return Error(message, where=self._where, hint=f"the card or its reader is failing: try another. {again}")

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
        """Its beginning can be read, but not even the same be written there again."""
        same = page_buffer(SECTOR)[:SECTOR]
        try:
            if os.preadv(self._file, [same], 0) != SECTOR:
                return False
        except OSError:
            return False
        try:
            os.pwrite(self._file, same, 0)
            os.fdatasync(self._file)
        except OSError:
            return self._readable(0)
        return False

    def _ends_early(self) -> bool:
        """The beginning can be read, the end can't."""
        return self._readable(0) and not self._readable(self.size // SECTOR * SECTOR - SECTOR)

    def _readable(self, offset: int) -> bool:
        try:
            return os.preadv(self._file, [page_buffer(SECTOR)[:SECTOR]], max(0, offset)) == SECTOR
        except OSError:
            return False


@contextmanager
def open_target(target: FlashTarget, size: int, *, private: bool) -> Iterator[OpenTarget]:
    """Open a target for this program alone; a file is made `size` bytes long, `private` one for its owner only.

    Raises `Error` if anything else uses it: the kernel itself refuses a device that is mounted or part of another one
    (open(2), O_EXCL), and the lock keeps udev away (systemd.io, "Locking Block Device Access").
    """
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
            lock_descriptor(descriptor, patience=PATIENCE)
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
        hint = "is it the right one? If so, end what uses it (`lsblk`, `fuser -v`)"
        return Error("something else is using it", where=where, hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run this as root" if target.device else "check the mode of the file and its folder"
        return Error("you may not write to it", where=where, hint=hint)
    if error.errno == errno.EROFS:
        return Error("it is read-only", where=where, hint="slide the card's lock away from LOCK, or use another")
    if error.errno in GONE:
        return Error("there is no card in it", where=where, hint="put one in; `edge-osbuild devices` shows it then")
    return Error(f"cannot be opened: {error.strerror}", where=where, hint=f"does it exist? {Path(where).parent}")
