"""This node as an update sees it: which slot runs, how slots are switched, and who is told."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from osbuild.agent import systemd
from osbuild.agent.boot.loader import Boot, BootLoader, boot_loader
from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.agent.update import boot_records
from osbuild.agent.update.cluster import Cluster, load_cluster
from osbuild.agent.update.progress import Progress
from osbuild.shared.locks import is_locked, lock_descriptor

LOCK = "/run/edge-osbuild/update.lock"
PATIENCE = 1.0  # seconds to wait for it
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class UpdateContext:
    """`reboot` asks for a reboot and returns, `later` for what `Cluster.rejoin` could not do now."""

    system: System
    boot_loader: BootLoader
    cluster: Cluster | None = None
    progress: Progress = field(default_factory=Progress)
    reboot: Callable[[], None] = systemd.reboot
    later: Callable[[], None] = systemd.start_uncordon

    @property
    def slot(self) -> str:
        """The slot that runs. Raises `Problem` where the boot loader did not say."""
        slot = self.system.argument("edge.slot")
        if slot not in ("a", "b"):
            raise Problem(
                f"the slot that runs is not known: it is {slot!r}", where="/proc/cmdline",
                hint="was this system started by its boot loader? updates need `edge.slot=` on the command line",
            )  # fmt: skip
        return slot

    @property
    def other(self) -> str:
        """The slot that does not run."""
        return "b" if self.slot == "a" else "a"

    @property
    def image(self) -> dict[str, Any]:
        """What runs here, as `Pending` has it."""
        found = {
            "version": self.system.image().get("version"),
            "kubernetes": boot_records.running_kubernetes(self.system),
        }
        return {name: value for name, value in found.items() if value}

    def read_boot(self) -> Boot:
        """How this boot came about."""
        slot, booted, entries = (
            self.slot,
            self.boot_loader.booted_entry(self.system),
            self.boot_loader.read_entries(self.system),
        )
        mine = next((entry for entry in entries if entry.slot == slot), None)
        others = tuple(entry for entry in entries if entry.slot != slot)
        return Boot(slot, mine or booted, booted is not None, others)


def this_device(report: Progress | None = None) -> UpdateContext:
    """The node that this runs on."""
    system = System()
    return UpdateContext(system, boot_loader(system), load_cluster(system), report or Progress())


def handle_signals() -> None:
    """Have SIGTERM and a terminal that hangs up end this like Ctrl-C does: what was begun is undone. A second one of
    them does not disturb that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:  # as nohup(1) has it
            signal.signal(each, interrupt)


def need_root() -> None:
    """Raises `Problem` for others."""
    if os.geteuid() != 0:
        raise Problem("only root may do this", hint="run it with sudo")


def is_busy(system: System) -> bool:
    """Whether an update, a switch or a rollback is running."""
    return is_locked(system.path(LOCK))


@contextmanager
def update_lock(system: System) -> Iterator[None]:
    """No two updates, switches or rollbacks at a time. Raises `Problem` where there is one already."""
    path = system.path(LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # A process that only asks whether the lock is held (`is_busy`) holds it for a moment too.
            lock_descriptor(descriptor, patience=PATIENCE)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            hint = f"wait for it: process {pid or '?'}; `edge-agent update status` says how far it is"
            raise Problem("another update is being installed", hint=hint) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
