"""When devices may install what they are told to: maintenance windows, in the time zone of each device."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from osbuild.fleet.refusal import Refused
from osbuild.shared.maintenance_window import MaintenanceWindows, parse_windows

ZONE_ATTRIBUTE = "timezone"
"""the attribute with the name of a device's time zone"""


@dataclass(frozen=True)
class MaintenanceSchedule:
    """`windows` as `parse_windows` reads them. `zone` is their time zone; None is that of each device, or UTC.

    No window is open at `until` or later (milliseconds since 1970).
    """

    windows: str
    zone: str | None = None
    until: int | None = None

    def is_open(self, now: int, zone: str | None) -> bool:
        """Whether a device in the time zone `zone` may install now (milliseconds since 1970)."""
        return self._windows(zone).is_open(now / 1000) and (self.until is None or now < self.until)

    def next_opening(self, now: int, zone: str | None) -> int | None:
        """Return when the next window of a device opens, in milliseconds since 1970; None if there is none."""
        opening = int(self._windows(zone).next_opening(now / 1000) * 1000)
        return None if self.until is not None and opening >= self.until else opening

    def has_lapsed(self, now: int, zone: str | None) -> bool:
        """Whether no window is open, and none will open any more."""
        return not self.is_open(now, zone) and self.next_opening(now, zone) is None

    def _windows(self, zone: str | None) -> MaintenanceWindows:
        return _cached_windows(self.windows, self.zone or zone)


def check_schedule(schedule: MaintenanceSchedule, now: int) -> None:
    """Raise `Refused` if a schedule is not valid, or already over everywhere."""
    try:
        parse_windows(schedule.windows)
    except ValueError as error:
        raise Refused(400, "bad-window", str(error)) from error
    if schedule.zone is not None and load_zone(schedule.zone) is None:
        message = f"the time zone {schedule.zone} is unknown; write a name such as Europe/Berlin"
        raise Refused(400, "bad-window", message)
    if schedule.until is not None and schedule.until <= now:
        raise Refused(400, "bad-window", "the maintenance windows end in the past (`until`)")


def zone_of(attributes: Mapping[str, str]) -> str | None:
    """Return the time zone that a device names among its attributes; None if it names none."""
    return attributes.get(ZONE_ATTRIBUTE)


def encode_schedule(schedule: MaintenanceSchedule | None) -> str | None:
    """Return what the database stores for a schedule."""
    return None if schedule is None else msgspec.json.encode(schedule).decode()


@lru_cache(1000)
def decode_schedule(text: str | None) -> MaintenanceSchedule | None:
    """Return the schedule that the database stores as `text`."""
    return None if text is None else msgspec.json.decode(text, type=MaintenanceSchedule)


@lru_cache(1000)
def load_zone(name: str) -> tzinfo | None:
    """Return the time zone `name`, None if it is unknown."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # also for a name such as ../x
        return None


@lru_cache(1000)
def _cached_windows(text: str, zone: str | None) -> MaintenanceWindows:
    # An unknown zone must not stop the device; its attributes show what it has sent.
    return parse_windows(text, (load_zone(zone) if zone else None) or UTC)
