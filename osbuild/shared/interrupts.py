"""Ctrl-C while a program still imports its modules: nothing has begun yet, so there is nothing to undo."""

import os
import signal
from contextlib import suppress
from types import FrameType


def exit_on_interrupt() -> None:
    """Have Ctrl-C end this process at once with one line and status 130. It stays ignored if it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Have Ctrl-C raise `KeyboardInterrupt` again: undoes `exit_on_interrupt`."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # standard error may be closed
        os.write(2, b"interrupted\n")
    os._exit(128 + number)
