"""Polls a web server and records when it answered, to measure its downtime."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.shared.errors import Error

PAUSE = 0.2  # seconds from an answer to the next request
PATIENCE = 2.0  # seconds until a request times out


@dataclass
class Answers:
    """The times of good answers, by time.monotonic(), oldest first."""

    moments: list[float] = field(default_factory=list)

    def gap(self, begin: float, end: float) -> tuple[float, float]:
        """Return the times of the two answers around the longest gap between `begin` and `end`.

        Raises `Error` if there are fewer than two answers.
        """
        moments = [moment for moment in self.moments if begin <= moment <= end]
        if len(moments) < 2:
            raise Error(f"the pod has answered {len(moments)} times only", where="downtime")
        return max(pairwise(moments), key=lambda pair: pair[1] - pair[0])

    def wait(self, timeout: float) -> float:
        """Wait for the next answer and return its time. Raises `TimedOut` after `timeout` seconds."""
        deadline, count = Deadline(timeout), len(self.moments)
        while len(self.moments) == count:
            if deadline.passed:
                raise TimedOut(f"the pod has not answered for {timeout:g} s")
            deadline.pause()
        return self.moments[count]


@contextmanager
def ask_repeatedly(port: int) -> Iterator[Answers]:
    """Poll the server at a port of 127.0.0.1 until the block ends."""
    answers, stop = Answers(), threading.Event()

    def ask() -> None:
        while not stop.wait(PAUSE):
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    connection.request("GET", "/")
                    answered = connection.getresponse().status == http.client.OK
                finally:
                    connection.close()
                if answered:
                    answers.moments.append(time.monotonic())

    thread = threading.Thread(target=ask, name="answers", daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()
