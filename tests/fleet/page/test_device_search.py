"""Finding devices: in portions, by patterns, and by their condition."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundles import FileStore
from osbuild.fleet.database import Database
from osbuild.fleet.page.conditions import UNSEEN_AFTER, DeviceCondition, judge_device
from osbuild.fleet.page.device_search import DeviceSearch, find_devices, scan_devices
from osbuild.fleet.page.overview import MOST_VERSIONS, share_versions, summarize
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionKind, ActionState
from osbuild.fleet.tables import actions, bundles, devices

NOW = 10 * UNSEEN_AFTER
HEALTHY = {"health": "healthy", "version": "1.0.0"}
TAGGED = '{"site": "berlin"}'


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Seven devices in use, one of each condition and further healthy ones, and one that is decommissioned."""
    database = Database(tmp_path / "fleet.db")
    rows: list[dict[str, Any]] = [
        {"name": "d1", "attributes": {**HEALTHY, "tag.site": "berlin"}, "last_seen": NOW},
        {"name": "d2", "attributes": {**HEALTHY, "health": "not healthy"}, "last_seen": NOW, "tags": TAGGED},
        {"name": "d3", "attributes": {**HEALTHY, "board": "rpi4"}, "last_seen": NOW},  # its update has failed
        {"name": "d4", "attributes": HEALTHY, "last_seen": NOW - UNSEEN_AFTER - 1},
        {"name": "d5", "attributes": {}, "last_seen": NOW},
        {"name": "d6", "attributes": {**HEALTHY, "board": "rpi3"}, "last_seen": None},  # it polls now
        {"name": "d7", "attributes": {**HEALTHY, "version": "1.1.0"}, "last_seen": NOW},  # its newest update succeeded
        {"name": "gone", "attributes": HEALTHY, "last_seen": NOW, "decommissioned": NOW},
    ]

    def fill(connection: Connection) -> None:
        common = {"created": 0, "decommissioned": None, "tags": "{}"}
        values = [{**common, **row, "attributes": json.dumps(row["attributes"])} for row in rows]
        connection.execute(insert(devices), values)
        digests = {"sha256": "0", "sha1": "0", "md5": "0"}
        title = {"name": "edge", "version": "1.1.0", "compatible": "edge", "filename": "f", "size": 1, "created": 0}
        connection.execute(insert(bundles).values(**digests, **title))
        order = {"bundle": 1, "kind": ActionKind.forced, "active": False, "weight": 1, "created": 0}
        finished, failed = ActionState.finished, ActionState.failed
        states = [(3, finished), (7, failed), (3, failed), (7, finished)]
        connection.execute(insert(actions), [{**order, "device": device, "state": state} for device, state in states])

    database.begin_change(fill).result()
    authority = load_authority(tmp_path, "device-ca")
    yield Service(database, FileStore(tmp_path / "files"), authority, tmp_path, clock=lambda: NOW,
                  contacts={6: (NOW, "192.0.2.1")})  # fmt: skip
    database.close()


def names_of(service: Service, search: DeviceSearch, after: str = "", most: int = 10) -> tuple[list[str], int, bool]:
    found = asyncio.run(find_devices(service, search, after, most))
    return [device.name for device in found.devices], found.count, found.more


@pytest.mark.parametrize("portion", [1, 2, 3, 7, 100])
def test_devices_are_read_in_portions_each_of_them_once(service: Service, portion: int) -> None:
    async def read() -> list[str]:
        return [device.name async for devices in scan_devices(service, "d2", portion) for device in devices]

    assert asyncio.run(read()) == ["d3", "d4", "d5", "d6", "d7"]


def test_all_devices_are_listed_page_by_page(service: Service) -> None:
    assert names_of(service, DeviceSearch({}), most=4) == (["d1", "d2", "d3", "d4"], 7, True)
    assert names_of(service, DeviceSearch({}), after="d4", most=4) == (["d5", "d6", "d7"], 7, False)
    assert names_of(service, DeviceSearch({}), after="d3", most=4) == (["d4", "d5", "d6", "d7"], 7, False)


def test_devices_are_found_by_patterns_page_by_page(service: Service) -> None:
    assert names_of(service, DeviceSearch({"board": "rpi*"})) == (["d3", "d6"], 2, False)
    assert names_of(service, DeviceSearch({"board": "rpi*"}), most=1) == (["d3"], 2, True)
    assert names_of(service, DeviceSearch({"board": "rpi*"}), after="d3", most=1) == (["d6"], 2, False)
    assert names_of(service, DeviceSearch({"name": "d[12],d7", "version": "1.0.*"})) == (["d1", "d2"], 2, False)


def test_devices_are_found_by_tags_which_only_people_set(service: Service) -> None:
    assert names_of(service, DeviceSearch({"tag.site": "b*"}))[0] == ["d2"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (DeviceCondition.healthy, ["d1", "d6", "d7"]), (DeviceCondition.unhealthy, ["d2"]),
        (DeviceCondition.failed, ["d3"]), (DeviceCondition.unseen, ["d4"]), (DeviceCondition.unknown, ["d5"]),
    ],
)  # fmt: skip
def test_devices_are_found_by_condition(service: Service, condition: DeviceCondition, expected: list[str]) -> None:
    assert names_of(service, DeviceSearch({}, condition))[0] == expected


def test_a_device_that_is_silent_and_not_healthy_is_not_seen() -> None:
    attributes = {"health": "not healthy"}
    assert judge_device(attributes, NOW - UNSEEN_AFTER - 1, NOW, failed=True) is DeviceCondition.unseen
    assert judge_device(attributes, NOW, NOW, failed=True) is DeviceCondition.unhealthy
    assert judge_device({}, NOW, NOW, failed=True) is DeviceCondition.failed


def test_a_fleet_is_counted(service: Service) -> None:
    overview = asyncio.run(summarize(scan_devices(service)))
    assert overview.devices == 7
    assert dict(overview.conditions) == {
        DeviceCondition.healthy: 3, DeviceCondition.unhealthy: 1, DeviceCondition.failed: 1,
        DeviceCondition.unseen: 1, DeviceCondition.unknown: 1,
    }  # fmt: skip
    assert [(share.version, share.devices, share.pattern) for share in overview.versions] == [
        ("1.0.0", 5, "1.0.0"), ("1.1.0", 1, "1.1.0"), ("unknown", 1, None),
    ]  # fmt: skip
    assert [name for name, _ in overview.squares] == ["d1", "d2", "d3", "d4", "d5", "d6", "d7"]
    assert sum(arc.length for arc in overview.arcs) == pytest.approx(100, abs=0.01)


def test_many_versions_are_summed_up() -> None:
    shares = share_versions({f"1.{number}": 100 - number for number in range(MOST_VERSIONS + 4)})
    assert len(shares) == MOST_VERSIONS and sum(share.percent for share in shares) == pytest.approx(100)
    assert shares[-1].version == "5 other versions" and shares[-1].pattern is None
