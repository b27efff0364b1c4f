"""What every step of an update needs: the system, its boot loader, its cluster, and where progress is reported."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from osbuild.agent import systemd
from osbuild.agent.boot.loader import Boot, BootLoader, boot_loader
from osbuild.agent.errors import Busy, Problem
from osbuild.agent.system import System
from osbuild.agent.update import boot_records
from osbuild.agent.update.cluster import Cluster, load_cluster
from osbuild.agent.update.progress import ConsoleProgress, Progress
from osbuild.shared.files import clear_way, make_folder
from osbuild.shared.locks import is_locked, lock_descriptor

LOCK = "/run/edge-osbuild/update.lock"
PATIENCE = 1.0  # seconds to wait for it
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class UpdateContext:
    """`reboot` requests a reboot and returns. `later` schedules what `Cluster.rejoin` could not do now."""

    system: System
    boot_loader: BootLoader
    cluster: Cluster | None = None
    progress: Progress = field(default_factory=ConsoleProgress)
    reboot: Callable[[], None] = systemd.reboot
    later: Callable[[], None] = systemd.start_uncordon

    @property
    def slot(self) -> str:
        """The running slot. Raises `Problem` if the kernel command line does not name it."""
        slot = self.system.argument("edge.slot")
        if slot not in ("a", "b"):
            raise Problem(
                f"the running slot is unknown: `edge.slot` is {slot!r}", where="/proc/cmdline",
                hint="start the device with its boot loader; updates need `edge.slot=` on the kernel command line",
            )  # fmt: skip
        return slot

    @property
    def other(self) -> str:
        """The slot that is not running."""
        return "b" if self.slot == "a" else "a"

    @property
    def image(self) -> dict[str, Any]:
        """Version and Kubernetes of the running image, as stored in `PendingUpdate.before`."""
        image = {
            "version": self.system.image().version,
            "kubernetes": boot_records.running_kubernetes(self.system),
        }
        return {name: value for name, value in image.items() if value}

    def read_boot(self) -> Boot:
        """Read the boot state. Raises `Problem` if the running slot is unknown."""
        slot, booted, entries = (
            self.slot,
            self.boot_loader.booted_entry(self.system),
            self.boot_loader.read_entries(self.system),
        )
        running = next((entry for entry in entries if entry.slot == slot), None)
        others = tuple(entry for entry in entries if entry.slot != slot)
        return Boot(slot, running or booted, booted is not None, others)


def this_device(progress: Progress | None = None) -> UpdateContext:
    """The context of the device that this program runs on."""
    system = System()
    return UpdateContext(system, boot_loader(system), load_cluster(system), progress or ConsoleProgress())


def handle_signals() -> None:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that the command undoes what it began. A second signal is ignored."""

    def interrupt(received: int, frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1) ignores SIGHUP, and that is kept
            signal.signal(number, interrupt)


def need_root() -> None:
    """Raise `Problem` if this process does not run as root."""
    if os.geteuid() != 0:
        raise Problem("this command needs root rights", hint="run it with sudo")


def is_busy(system: System) -> bool:
    """Whether an update, a switch or a rollback is running."""
    return is_locked(system.path(LOCK))


@contextmanager
def update_lock(system: System) -> Iterator[None]:
    """Hold the lock of updates, switches and rollbacks. Raises `Busy` if another process holds it, and `OSError`."""
    path = system.path(LOCK)
    make_folder(path.parent)
    clear_way(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # A process that only asks whether the lock is held (`is_busy`) holds it for a moment too.
            lock_descriptor(descriptor, patience=PATIENCE)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            hint = f"wait for process {pid or '?'}; `edge-agent update status` shows the pending update"
            raise Busy("another update is being installed", hint=hint) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
