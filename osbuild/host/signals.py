"""Signals that end a command: it releases what it holds, and leaves nothing behind."""

import signal
import sys
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)  # the second when a terminal is closed


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this process in the same way as Ctrl-C, with status 128 + number.

    Further ones do not interrupt that. SIGHUP stays ignored if it was, as under nohup(1).
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, lambda *_: None)
        sys.exit(128 + number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
