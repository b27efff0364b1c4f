"""Cards that fail: a file system with one file (Linux, Documentation/filesystems/fuse), and a loop device on it."""

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
LARGEST_WRITE = 2**17  # bytes of one write
LOOP_SET_CAPACITY = 0x4C07  # <linux/loop.h>
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class FailingCard:
    """A card that reports `size` bytes and stores them in the file `store`, with the faults that are set.

    `ends_at`: accesses beyond this offset fail. `drops_from`: writes beyond this offset succeed, but are lost. After
    `pulled_after` written bytes every access fails, after `locked_after` every write. `delay` is in seconds per write.
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
        """Return the errno of an access, 0 if it succeeds."""
        if self.pulled_after is not None and self.written >= self.pulled_after:
            self.reached.set()
            return errno.ENODEV
        if writing and self.locked_after is not None and self.written >= self.locked_after:
            self.reached.set()
            return errno.EROFS
        return errno.EIO if self.ends_at is not None and offset + size > self.ends_at else 0


class CardServer:
    """Answers the kernel's requests in a thread of its own until the file system is unmounted."""

    def __init__(self, card: FailingCard, device: int) -> None:
        self.card, self.device = card, device
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        store = self.card.open()
        try:
            while True:
                try:
                    request = os.read(self.device, LARGEST_WRITE + 4096)
                except OSError as error:
                    if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                        continue
                    return  # ENODEV: unmounted
                _, code, unique, *_ = IN.unpack_from(request)
                if code in NO_ANSWER:
                    continue
                answer = self._answer(code, request[IN.size :], store)
                status, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
                with contextlib.suppress(FileNotFoundError):  # the caller was interrupted
                    os.write(self.device, OUT.pack(OUT.size + len(body), status, unique) + body)
        finally:
            os.close(store)

    def _answer(self, code: int, body: bytes, store: int) -> bytes | int:
        """Return the body of the reply, or an errno."""
        card = self.card
        match code:
            case 26:
                return struct.pack(
                    "<IIIIHHIIHH8I",
                    7,
                    31,
                    LARGEST_WRITE,
                    0,
                    12,
                    9,
                    LARGEST_WRITE,
                    1,
                    LARGEST_WRITE // 4096,
                    0,
                    *[0] * 8,
                )
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
                if error := card.fault(offset, size, writing=True):
                    return error
                time.sleep(card.delay)
                data = body[40 : 40 + size]
                stored = data if card.drops_from is None else data[: max(0, card.drops_from - offset)]
                os.pwrite(store, stored, offset)
                card.written += size
                return struct.pack("<II", size, 0)
            case 18 | 20 | 25 | 38:
                return b""
            case _:
                return errno.ENOSYS


@contextmanager
def mount_card(card: FailingCard, target: Path) -> Iterator[Path]:
    """Mount the card as the file `target`."""
    target.touch()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,max_read={LARGEST_WRITE}"
    if libc.mount(b"card", str(target).encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    server = CardServer(card, device)
    server.thread.start()
    try:
        yield target
    finally:
        libc.umount2(str(target).encode(), 2)  # MNT_DETACH: unmounted after the last use
        os.close(device)
        server.thread.join(10)
        assert not server.thread.is_alive()


@contextmanager
def attach_loop_device(file: Path, *, sector: int = 512) -> Iterator[Path]:
    """Attach a loop device to a file."""
    device = Path(run_command(["losetup", "--find", "--show", f"--sector-size={sector}", file]).strip())
    try:
        yield device
    finally:
        run_command(["blockdev", "--setrw", device])  # otherwise the device's next file is read-only too
        run_command(["losetup", "--detach", device])


@contextmanager
def insert_card(card: FailingCard, folder: Path) -> Iterator[Path]:
    """Provide the card as a block device."""
    with mount_card(card, folder / "fuse") as file, attach_loop_device(file) as device:
        yield device


def set_capacity(device: Path) -> None:
    """Update the size of a loop device to the size of its file."""
    with device.open("rb") as file:
        fcntl.ioctl(file, LOOP_SET_CAPACITY, 0)
