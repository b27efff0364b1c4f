"""The time between two polls, as hawkBit writes it."""

import pytest

from osbuild.fleet.ddi.documents import format_sleep


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "00:00:05"), (86399, "23:59:59"), (86400, "PT24H"), (90061, "PT25H1M1S")]
)
def test_the_time_until_the_next_poll_is_iso_8601_from_a_day_on(seconds: int, text: str) -> None:
    assert format_sleep(seconds) == text
