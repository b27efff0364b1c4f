"""The versions of a fleet over time: what is stored, and the chart of it."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from osbuild.fleet.database import Database
from osbuild.fleet.page.version_chart import HEIGHT, MOST_AREAS, MOST_ROWS, WIDTH, draw_versions
from osbuild.fleet.page.version_history import (
    HOUR,
    KEPT,
    MOST_MOMENTS,
    MOST_VERSIONS,
    OTHERS,
    VersionMoment,
    read_versions,
    record_versions,
)

T = TypeVar("T")
NOW = 500_000 * HOUR


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "fleet.db")
    yield database
    database.close()


def run(database: Database, work: Callable[[Connection], T]) -> T:
    return database.begin_change(work).result()


def record(database: Database, now: int, counts: Mapping[str, int]) -> None:
    run(database, lambda connection: record_versions(connection, counts, now))


def test_versions_are_counted_once_an_hour_and_old_counts_are_deleted(database: Database) -> None:
    record(database, NOW - KEPT - HOUR, {"0.1": 1})
    record(database, NOW + 5, {"1.0": 2, "1.1": 1})
    record(database, NOW + HOUR - 1, {"1.0": 3})
    record(database, NOW + HOUR, {})
    assert run(database, lambda connection: read_versions(connection, NOW + HOUR)) == [
        VersionMoment(NOW, {"1.0": 2, "1.1": 1})
    ]
    assert run(database, lambda connection: read_versions(connection, NOW - KEPT)) == [
        VersionMoment(NOW, {"1.0": 2, "1.1": 1})
    ]


def test_many_versions_are_stored_as_one(database: Database) -> None:
    record(database, NOW, {f"1.{number}": 100 - number for number in range(MOST_VERSIONS + 2)})
    (moment,) = run(database, lambda connection: read_versions(connection, NOW))
    assert len(moment.devices) == MOST_VERSIONS + 1
    assert moment.devices[OTHERS] == 100 - MOST_VERSIONS + 100 - MOST_VERSIONS - 1


def test_a_long_history_is_thinned_and_keeps_its_newest_moment(database: Database) -> None:
    for hour in range(MOST_MOMENTS + 50):
        record(database, NOW + hour * HOUR, {"1.0": hour + 1})
    moments = run(database, lambda connection: read_versions(connection, NOW + 200 * HOUR))
    assert len(moments) <= MOST_MOMENTS and moments[-1].devices == {"1.0": MOST_MOMENTS + 50}
    assert {later.time - earlier.time for earlier, later in pairwise(moments)} == {2 * HOUR}


def test_one_moment_is_no_chart() -> None:
    assert draw_versions([], []) is None
    assert draw_versions([VersionMoment(NOW, {"1.0": 1})], []) is None


def test_areas_lie_on_top_of_each_other_and_reach_the_top_where_most_devices_are() -> None:
    moments = [VersionMoment(NOW, {"1.0": 4}), VersionMoment(NOW + HOUR, {"1.0": 2, "1.1": 6})]
    chart = draw_versions(moments, ["1.1"])
    assert chart is not None and chart.highest == 8
    assert [area.version for area in chart.areas] == ["1.1", "1.0"]
    assert chart.areas[0].path == f"M0.0 {HEIGHT}L{WIDTH} 40.0L{WIDTH} {HEIGHT}L0.0 {HEIGHT}Z"
    assert chart.areas[1].path == f"M0.0 80.0L{WIDTH} 0.0L{WIDTH} 40.0L0.0 {HEIGHT}Z"
    assert chart.rows == ((NOW, (0, 4)), (NOW + HOUR, (6, 2)))


def test_a_chart_has_few_areas_and_rows_and_leaves_no_device_out() -> None:
    moments = [
        VersionMoment(NOW + hour * HOUR, {f"1.{number}": number + 1 for number in range(20)}) for hour in range(40)
    ]
    chart = draw_versions(moments, ["1.3"])
    assert chart is not None and len(chart.areas) == MOST_AREAS and len(chart.rows) <= MOST_ROWS
    assert (chart.areas[0].version, chart.areas[-1].version) == ("1.3", OTHERS)
    assert all(sum(counts) == 210 for _, counts in chart.rows) and chart.rows[-1][0] == moments[-1].time
