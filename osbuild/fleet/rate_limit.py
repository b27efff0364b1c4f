"""Limits how often something may happen for one client."""

from dataclasses import dataclass, field

MOST_CLIENTS = 10_000


@dataclass
class RateLimit:
    """At most `most` events of one client in `period` milliseconds."""

    most: int
    period: int
    _events: dict[str, tuple[int, int]] = field(default_factory=dict)  # client -> begin of its period, events in it

    def is_reached(self, client: str, now: int) -> bool:
        """Whether a client has had all of its events."""
        begin, events = self._events.get(client, (now, 0))
        return events >= self.most and now < begin + self.period

    def count(self, client: str, now: int) -> None:
        """Count an event of a client."""
        begin, events = self._events.get(client, (now, 0))
        if now >= begin + self.period:
            begin, events = now, 0
        if len(self._events) >= MOST_CLIENTS:
            self._events.clear()  # rather a new chance for all than memory without a limit
        self._events[client] = (begin, events + 1)
