"""The parts of a plan as people write them, on the command line and on the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?", re.ASCII)
REST, COUNT = "rest", "count"


@dataclass(frozen=True)
class GroupText:
    """How many devices a group has, see `GroupPlan`."""

    percent: float | None = None
    count: int | None = None
    selection: dict[str, str] | None = None


def parse_groups(text: str) -> list[GroupText]:
    """Return the groups of a list such as `5,25,70` or `count=10,site=berlin+board=rpi4,10%,rest`.

    A number is a percentage. Raises `ValueError` with a message for people.
    """
    return [_parse_group(part.strip()) for part in text.split(",")]


def _parse_group(part: str) -> GroupText:
    if part == REST:
        return GroupText()
    key, equals, value = part.partition("=")
    if equals and key == COUNT:
        if not value.isdecimal() or len(value) > 9:
            raise ValueError(f"this is not a number of devices: {value}; write `count=10`")
        return GroupText(count=int(value))
    if equals:
        return GroupText(selection=parse_selection(part.split("+")))
    try:
        return GroupText(percent=float(part.removesuffix("%")))
    except ValueError as error:
        message = f"this is not a group: {part}; write `10%`, `count=10`, a selection KEY=PATTERN, or `rest`"
        raise ValueError(message) from error


def parse_selection(parts: Sequence[str]) -> dict[str, str]:
    """Return the patterns of texts of the form KEY=PATTERN. Raises `ValueError` with a message for people."""
    selection: dict[str, str] = {}
    for part in parts:
        key, _, pattern = part.partition("=")
        if not key or not pattern:
            raise ValueError(f"this selects nothing: {part}; write KEY=PATTERN, such as version=1.0.*")
        if key in selection:
            raise ValueError(f"there are two patterns for {key}: write its alternatives with commas, KEY=A,B")
        selection[key] = pattern
    return selection


def parse_time(text: str) -> int:
    """Return an ISO 8601 time with its offset from UTC in milliseconds since 1970.

    Raises `ValueError` with a message for people.
    """
    hint = "write it with its offset from UTC, such as 2026-12-01T02:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"this is not a time: {text}; {hint}") from error
    if moment.tzinfo is None:
        raise ValueError(f"this time has no time zone: {text}; {hint}")
    return int(moment.timestamp() * 1000)


def parse_duration(text: str) -> int:
    """Return a duration such as `90`, `30m` or `1d12h` in seconds. Raises `ValueError` with a message for people."""
    match = DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"this is not a duration: {text}; write it as 90s, 30m, 12h or 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def format_duration(seconds: int) -> str:
    """Return a duration in the form that `parse_duration` reads."""
    rest, parts = seconds, []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= length:
            parts.append(f"{rest // length}{unit}")
            rest %= length
    return "".join(parts) or "0s"
