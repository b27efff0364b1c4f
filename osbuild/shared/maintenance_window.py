"""Maintenance windows: weekdays and times of the day, such as `Mon-Fri 01:00-04:00; Sat,Sun 22:00-06:00`.

Without weekdays, a window opens every day. If it does not end later on the day than it begins, it ends on the next day.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_WINDOWS = 20
LONGEST = 1000  # characters
FORM = "`Mon-Fri 01:00-04:00; Sat,Sun 22:00-06:00`"
_DAY = "|".join(WEEKDAYS)
_WINDOW = re.compile(
    rf"(?:((?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*) +)?"
    r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)"
)
PATTERN = rf"^{_WINDOW.pattern}(?: *; *{_WINDOW.pattern})*$"
"""what texts of windows match"""


@dataclass(frozen=True)
class DailyWindow:
    """From minute `begin` to minute `end` of the day, on weekdays (Monday is 0). `end` may be on the next day."""

    days: frozenset[int]
    begin: int
    end: int

    def periods(self, now: float, zone: tzinfo | None) -> Iterator[tuple[float, float]]:
        """Yield begin and end of the windows from yesterday on, for more than a week. Times are seconds since 1970."""
        today = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        for offset in range(-1, 9):
            day = today + timedelta(days=offset)  # the same time of that day, also if the offset from UTC changes
            if day.weekday() in self.days:
                begin, end = (day + timedelta(minutes=minute) for minute in (self.begin, self.end))
                yield begin.timestamp(), end.timestamp()


@dataclass(frozen=True)
class MaintenanceWindows:
    """Windows of which one is enough. `zone` is the time zone of their times; None is that of this system."""

    windows: tuple[DailyWindow, ...]
    zone: tzinfo | None = None

    def is_open(self, now: float) -> bool:
        """Whether a window is open at a time, in seconds since 1970."""
        return any(begin <= now < end for begin, end in self._periods(now))

    def next_opening(self, now: float) -> float:
        """Return when the next window opens, in seconds since 1970."""
        return min(begin for begin, _ in self._periods(now) if begin > now)

    def _periods(self, now: float) -> Iterator[tuple[float, float]]:
        for window in self.windows:
            yield from window.periods(now, self.zone)


def parse_windows(text: str, zone: tzinfo | None = None) -> MaintenanceWindows:
    """Return the windows of a text. Raises `ValueError` with a message for people."""
    parts = [part.strip() for part in text.split(";")]
    if len(parts) > MOST_WINDOWS or len(text) > LONGEST:
        raise ValueError(f"there are more than {MOST_WINDOWS} maintenance windows, or {LONGEST} characters")
    return MaintenanceWindows(tuple(_parse_window(part) for part in parts), zone)


def _parse_window(text: str) -> DailyWindow:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f"this is not a maintenance window: {text[:100]}; write {FORM}")
    days, *numbers = match.groups()
    begin = int(numbers[0]) * 60 + int(numbers[1])
    end = 24 * 60 if numbers[2] is None else int(numbers[2]) * 60 + int(numbers[3])
    return DailyWindow(_parse_days(days), begin, end if end > begin else end + 24 * 60)


def _parse_days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin = WEEKDAYS.index(first)
        length = (WEEKDAYS.index(last) - begin) % 7 if last else 0
        days |= {(begin + number) % 7 for number in range(length + 1)}
    return frozenset(days)
