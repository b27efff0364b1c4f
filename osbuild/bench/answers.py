"""When a web server has answered, asked over and over: how long it did not."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.shared.errors import Error

PAUSE = 0.2  # seconds from an answer to the next question
PATIENCE = 2.0  # seconds for an answer


@dataclass
class Answers:
    """Moments of good answers, by time.monotonic(), in their order."""

    moments: list[float] = field(default_factory=list)

    def gap(self, begin: float, end: float) -> tuple[float, float]:
        """The last answer before, and the first one after, the longest time without one between `begin` and `end`.

        Raises `Error` where there were not two.
        """
        found = [moment for moment in self.moments if begin <= moment <= end]
        if len(found) < 2:
            raise Error(f"the pod has answered {len(found)} times only", where="downtime")
        return max(pairwise(found), key=lambda pair: pair[1] - pair[0])

    def wait(self, timeout: float) -> float:
        """Wait for the next answer: its moment. Raises `TimedOut` after `timeout` seconds."""
        deadline, known = Deadline(timeout), len(self.moments)
        while len(self.moments) == known:
            if deadline.passed:
                raise TimedOut(f"the pod has not answered for {timeout:g} s")
            deadline.pause()
        return self.moments[known]


@contextmanager
def ask_repeatedly(port: int) -> Iterator[Answers]:
    """Ask the server at a port of 127.0.0.1 for the time of the block."""
    answers, over = Answers(), threading.Event()

    def ask() -> None:
        while not over.wait(PAUSE):
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    connection.request("GET", "/")
                    good = connection.getresponse().status == http.client.OK
                finally:
                    connection.close()
                if good:
                    answers.moments.append(time.monotonic())

    thread = threading.Thread(target=ask, name="answers", daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
