"""Cancellation of an order that root carries out. It is possible until root begins to switch to the new slot.

The unprivileged part writes that it cancels, then reads whether root switches. Root writes that it switches, then reads
whether the order is cancelled. So one of them always sees the other.
"""

import json
import signal
import threading
from types import TracebackType

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.files import write_file

CANCEL_FILE = "/run/edge-fleet/cancel.json"
SWITCHING_FILE = "/run/edge-fleet-outcome/switching.json"  # in a folder of root; until the next boot
TYPES = {"id": str}
INTERVAL = 1.0  # seconds
MAIN_THREAD = threading.main_thread().ident or 0


class OrderCancelled(Problem):
    """The order is cancelled before the switch."""


def request_cancellation(system: System, order: str) -> bool:
    """Ask root to stop carrying out an order. Return False if it is too late. Raises `OSError`."""
    if not is_cancelled(system, order):
        write_file(system.path(CANCEL_FILE), json.dumps({"id": order}).encode() + b"\n", 0o600)
    if is_switching(system, order):
        forget_cancellation(system)  # root may have seen it, and stopped; then the order is written again
        return False
    return True


def forget_cancellation(system: System) -> None:
    """Remove a cancellation that was answered. Raises `OSError`."""
    system.path(CANCEL_FILE).unlink(missing_ok=True)


def is_cancelled(system: System, order: str) -> bool:
    """Whether the unprivileged part asks root to stop carrying out an order."""
    return state_files.read_object(system, CANCEL_FILE, TYPES, tuple(TYPES), links=False).get("id") == order


def is_switching(system: System, order: str) -> bool:
    """Whether root has begun to switch to the slot of an order since the last start of the device."""
    return state_files.read_object(system, SWITCHING_FILE, TYPES, tuple(TYPES)).get("id") == order


class CancellationWatch:
    """While this context is open, a cancellation of `order` ends this process's work like Ctrl-C. For root.

    It needs `handle_signals` of `osbuild.agent.update.context`.
    """

    def __init__(self, system: System, order: str) -> None:
        self.cancelled = False
        self._system, self._order, self._end = system, order, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CancellationWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def begin_switch(self) -> None:
        """Accept no cancellation any more. Raises `OrderCancelled` if there is one already, and `OSError`."""
        self._stop()
        path = self._system.path(SWITCHING_FILE)
        write_file(path, json.dumps(dict.fromkeys(TYPES, self._order)).encode() + b"\n", 0o644)
        if is_cancelled(self._system, self._order):
            path.unlink()
            self.cancelled = True
            raise OrderCancelled("the update server has cancelled the update before the switch")

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            if is_cancelled(self._system, self._order):
                self.cancelled = True
                signal.pthread_kill(MAIN_THREAD, signal.SIGTERM)  # so that it does not wait any longer
                return

    def _stop(self) -> None:
        self._end.set()
        self._thread.join()
