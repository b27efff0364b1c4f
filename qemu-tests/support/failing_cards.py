"""Cards that fail: a file system of one file (Linux, Documentation/filesystems/fuse), and a loop device on it."""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.host.run import run_command

# <linux/fuse.h>, version 7.31 of the protocol
IN = struct.Struct("<IIQQIIII")
OUT = struct.Struct("<IiQ")
GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FSYNC, FLUSH, INIT, DESTROY = 3, 4, 14, 15, 16, 18, 20, 25, 26, 38
NO_ANSWER = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
DIRECT_IO = 1  # a flag of OPEN's answer: no cache between the loop device and the card
MOST = 2**17  # bytes of one write
LOOP_SET_CAPACITY = 0x4C07  # <linux/loop.h>
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class FailingCard:
    """A card that says it has `size` bytes and keeps them in the file `store`. All that is set below goes wrong.

    `ends_at`: nothing works from there on. `drops_from`: writes from there on are taken, and lost. `pulled_after`
    and `locked_after` are in bytes written: then everything, or every write, fails. `delay` is in seconds a write.
    """

    size: int
    store: Path
    ends_at: int | None = None
    drops_from: int | None = None
    pulled_after: int | None = None
    locked_after: int | None = None
    delay: float = 0.0
    written: int = 0
    reached: threading.Event = field(default_factory=threading.Event)

    def open(self) -> int:
        descriptor = os.open(self.store, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, self.size)
        return descriptor

    def fault(self, offset: int, size: int, *, writing: bool) -> int:
        """The error of an access, 0 if there is none."""
        if self.pulled_after is not None and self.written >= self.pulled_after:
            self.reached.set()
            return errno.ENODEV
        if writing and self.locked_after is not None and self.written >= self.locked_after:
            self.reached.set()
            return errno.EROFS
        return errno.EIO if self.ends_at is not None and offset + size > self.ends_at else 0


class Served:
    """Answers the kernel's requests in a thread of its own until the file system is unmounted."""

    def __init__(self, card: FailingCard, device: int) -> None:
        self.card, self.device = card, device
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        store = self.card.open()
        try:
            while True:
                try:
                    request = os.read(self.device, MOST + 4096)
                except OSError as error:
                    if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                        continue
                    return  # ENODEV: unmounted
                _, code, unique, *_ = IN.unpack_from(request)
                if code in NO_ANSWER:
                    continue
                found = self._answer(code, request[IN.size :], store)
                status, body = (-found, b"") if isinstance(found, int) else (0, found)
                with contextlib.suppress(FileNotFoundError):  # who asked was interrupted
                    os.write(self.device, OUT.pack(OUT.size + len(body), status, unique) + body)
        finally:
            os.close(store)

    def _answer(self, code: int, body: bytes, store: int) -> bytes | int:
        """What is to be sent back, or an error."""
        card = self.card
        match code:
            case 26:
                return struct.pack("<IIIIHHIIHH8I", 7, 31, MOST, 0, 12, 9, MOST, 1, MOST // 4096, 0, *[0] * 8)
            case 3 | 4:
                mode = stat.S_IFREG | 0o600
                attributes = struct.pack(
                    "<6Q10I", 1, card.size, card.size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
                )
                return struct.pack("<QII", 1, 0, 0) + attributes
            case 14:
                return struct.pack("<QII", 0, DIRECT_IO, 0)
            case 15:
                _, offset, size = struct.unpack_from("<QQI", body)
                return card.fault(offset, size, writing=False) or os.pread(store, size, offset)
            case 16:
                _, offset, size = struct.unpack_from("<QQI", body)
                if found := card.fault(offset, size, writing=True):
                    return found
                time.sleep(card.delay)
                data = body[40 : 40 + size]
                kept = data if card.drops_from is None else data[: max(0, card.drops_from - offset)]
                os.pwrite(store, kept, offset)
                card.written += size
                return struct.pack("<II", size, 0)
            case 18 | 20 | 25 | 38:
                return b""
            case _:
                return errno.ENOSYS


@contextmanager
def mounted(card: FailingCard, place: Path) -> Iterator[Path]:
    """The card as the file `place`."""
    place.touch()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,max_read={MOST}"
    if libc.mount(b"card", str(place).encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    served = Served(card, device)
    served.thread.start()
    try:
        yield place
    finally:
        libc.umount2(str(place).encode(), 2)  # MNT_DETACH: it goes with its last user
        os.close(device)
        served.thread.join(10)
        assert not served.thread.is_alive()


@contextmanager
def looped(file: Path, *, sector: int = 512) -> Iterator[Path]:
    """A loop device on a file."""
    device = Path(run_command(["losetup", "--find", "--show", f"--sector-size={sector}", file]).strip())
    try:
        yield device
    finally:
        run_command(["blockdev", "--setrw", device])  # the kernel remembers it for the device's next file
        run_command(["losetup", "--detach", device])


@contextmanager
def inserted(card: FailingCard, folder: Path) -> Iterator[Path]:
    """The card as a block device."""
    with mounted(card, folder / "fuse") as file, looped(file) as device:
        yield device


def set_capacity(device: Path) -> None:
    """Let a loop device look at its file's size again."""
    with device.open("rb") as file:
        fcntl.ioctl(file, LOOP_SET_CAPACITY, 0)
