"""Maintenance windows in several time zones, also when the clocks change."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.shared.maintenance_window import parse_windows

BERLIN = ZoneInfo("Europe/Berlin")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "time", "is_open"),
    [
        ("Sat 02:00-04:00", "2026-12-05T01:59:59+01:00", False),
        ("Sat 02:00-04:00", "2026-12-05T02:00:00+01:00", True),
        ("Sat 02:00-04:00", "2026-12-05T03:59:59+01:00", True),
        ("Sat 02:00-04:00", "2026-12-05T04:00:00+01:00", False),
        ("Sat 02:00-04:00", "2026-12-06T03:00:00+01:00", False),
        ("Sat 22:00-06:00", "2026-12-06T05:59:00+01:00", True),
        ("Sat 22:00-06:00", "2026-12-05T05:59:00+01:00", False),
        ("22:00-06:00", "2026-12-05T05:59:00+01:00", True),
        ("Fri-Mon 12:00-24:00", "2026-12-06T23:59:59+01:00", True),
        ("Fri-Mon 12:00-24:00", "2026-12-08T12:00:00+01:00", False),
        ("Mon-Fri 01:00-04:00; Sat,Sun 10:00-11:00", "2026-12-06T10:30:00+01:00", True),
        ("Mon-Fri 01:00-04:00; Sat,Sun 10:00-11:00", "2026-12-06T03:00:00+01:00", False),
        # On 2027-03-28 the clocks go from 02:00 to 03:00, on 2026-10-25 from 03:00 back to 02:00.
        ("Sun 01:00-04:00", "2027-03-28T03:30:00+02:00", True),
        ("Sun 01:00-04:00", "2027-03-28T04:00:00+02:00", False),
        ("Sun 01:00-04:00", "2026-10-25T02:30:00+01:00", True),
        ("Sun 01:00-04:00", "2026-10-25T04:00:00+01:00", False),
    ],
)
def test_a_window_is_open_in_its_time_zone(text: str, time: str, is_open: bool) -> None:
    assert parse_windows(text, BERLIN).is_open(seconds(time)) is is_open


def test_the_next_window_opens_at_the_same_time_of_the_day_after_a_change_of_the_clocks() -> None:
    windows = parse_windows("03:00-04:00", BERLIN)
    assert windows.next_opening(seconds("2027-03-27T12:00+01:00")) == seconds("2027-03-28T03:00+02:00")
    assert windows.next_opening(seconds("2027-03-27T03:00+01:00")) == seconds("2027-03-28T03:00+02:00")
    sunday = parse_windows("Sun 03:00-04:00", BERLIN)
    assert sunday.next_opening(seconds("2026-12-06T03:00+01:00")) == seconds("2026-12-13T03:00+01:00")


@given(st.floats(1.7e9, 1.9e9), st.sampled_from(["Mon,Thu 23:00-01:00", "00:00-00:01", "Sun 12:00-11:00; 03:00-04:00"]))
def test_a_window_is_open_right_after_its_opening_and_closed_right_before(now: float, text: str) -> None:
    windows = parse_windows(text, BERLIN)
    opening = windows.next_opening(now)
    assert now < opening <= now + 7 * 86400 + 3600
    assert windows.is_open(opening)
    if not windows.is_open(now):
        assert not windows.is_open(opening - 0.001)


@pytest.mark.parametrize(
    "text",
    ["", "Sat", "02:00", "Sat 2:00-4:00", "Sam 02:00-04:00", "Sat 02:00-24:30", "02:00-04:00;",
     "Mon- 02:00-04:00", "\u0660\u0661:00-02:00",
     "; ".join(["01:00-02:00"] * 21)],
)  # fmt: skip
def test_what_is_not_a_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="maintenance window"):
        parse_windows(text)
