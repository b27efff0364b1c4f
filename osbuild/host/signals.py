"""Signals that end a command. The command then removes its temporary files and releases its locks."""

import signal
import sys
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)  # the second when a terminal is closed


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this process in the same way as Ctrl-C, with status 128 + number.

    Further signals do not interrupt the clean-up. If SIGHUP was ignored, it is still ignored, as under nohup(1).
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, lambda *_: None)
        sys.exit(128 + number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
