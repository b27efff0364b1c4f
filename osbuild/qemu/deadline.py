"""Deadlines for waiting."""

import time

from osbuild.shared.errors import Error

TICK = 0.05


class TimedOut(Error):
    """The deadline was exceeded."""


class Deadline:
    """A point in time, `seconds` from now on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = float(seconds)
        self._end = time.monotonic() + self.seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining == 0

    def pause(self, seconds: float = TICK) -> None:
        """Sleep for `seconds`, but not beyond the deadline."""
        time.sleep(min(seconds, self.remaining))
