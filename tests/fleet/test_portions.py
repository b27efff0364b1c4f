"""What reads many rows does so in portions, and lets others run in between."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, delete, insert

from osbuild.fleet import audit as audit_log
from osbuild.fleet.audit import Origin, read_audit, record_event, search_audit
from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundles import FileStore, NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.devices import FleetDevice, list_devices
from osbuild.fleet.management import rollout_routes
from osbuild.fleet.management.rollout_routes import preview_rollout
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.service import Service
from osbuild.fleet.tables import audit, devices

T = TypeVar("T")
GROUPS = (GroupPlan(None, selection={"name": "d*2"}), GroupPlan(None))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Twelve devices, one of which is decommissioned and one of another board, and a bundle."""
    database = Database(tmp_path / "fleet.db")
    rows: list[dict[str, Any]] = [{"name": f"d{number:02}", "created": 0} for number in range(11)]
    rows = [{**row, "decommissioned": 1 if row["name"] == "d05" else None, "attributes": "{}"} for row in rows]
    rows.append({"name": "other", "created": 0, "decommissioned": None, "attributes": '{"compatible": "pi"}'})

    def fill(connection: Connection) -> None:
        connection.execute(insert(devices), rows)
        add_bundle(connection, NewBundle("os", "1", "edge", "1.raucb"), StoredFile(1, "1", "1", "1"), 0)

    database.begin_change(fill).result()
    yield Service(database, FileStore(tmp_path / "files"), load_authority(tmp_path, "device-ca"), tmp_path)
    database.close()


class TurnCounter:
    """Counts how often something else could run while `run` waits for its work."""

    turns = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def count() -> T:
            task = asyncio.ensure_future(work)
            while not task.done():
                self.turns += 1
                await asyncio.sleep(0)
            return await task

        return asyncio.run(count())


@pytest.mark.parametrize("portion", [1, 3, 5, 10, 100])
def test_a_preview_reads_devices_in_portions_each_of_them_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    counter, reads = TurnCounter(), list[tuple[int, int]]()

    def read(connection: Connection, after: str, most: int) -> list[FleetDevice]:
        found = list_devices(connection, after, most)
        reads.append((counter.turns, len(found)))
        return found

    monkeypatch.setattr(rollout_routes, "PORTION", portion)
    monkeypatch.setattr(rollout_routes, "list_devices", read)
    preview = counter.run(preview_rollout(service, RolloutPlan("winter", 1, {"name": "d*"}, GROUPS)))
    rest = ["d00", "d01", "d03", "d04", "d06", "d07", "d08", "d09", "d10"]
    assert preview.names == [["d02"], rest] and preview.groups == [1, 9]
    assert preview.first == sorted(["d02", *rest])
    assert sum(number for _, number in reads) == 11 and max(number for _, number in reads) <= portion
    assert len({turn for turn, _ in reads}) == len(reads), "two portions were read in one step"
    with pytest.raises(
        Refused, match=r"not for 1 of the selected devices: .* \(pi\); select without them: --select compatible=edge"
    ):
        asyncio.run(preview_rollout(service, RolloutPlan("winter", 1, {}, GROUPS)))


@pytest.mark.parametrize("portion", [1, 7, 100])
def test_the_audit_log_is_searched_in_portions_the_newest_first(
    service: Service, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(audit_log, "PORTION", portion)
    database = service.database
    assert asyncio.run(search_audit(database, None, 10, {})) == []

    def fill(connection: Connection) -> None:
        for number in range(40):
            who = "eve" if number % 5 == 0 else "alice%"
            record_event(connection, Origin(who, "192.0.2.1", number), "bundle published", f"os {number % 2}")
        connection.execute(delete(audit).where(audit.c.id <= 8))  # by the end of history

    database.begin_change(fill).result()
    everything = database.read(lambda connection: read_audit(connection, None, 100))
    assert [entry.id for entry in everything] == list(range(40, 8, -1))
    counter = TurnCounter()
    found = counter.run(search_audit(database, None, 100, {"who": "ev", "subject": "1"}))
    assert found == [entry for entry in everything if entry.who == "eve" and entry.subject == "os 1"]
    assert [entry.time for entry in found] == [35, 25, 15] and counter.turns > 32 / portion
    for before, most, times in [(36, 1, [25]), (26, 9, [15]), (10**15, 9, [35, 25, 15]), (9, 9, [])]:
        found = asyncio.run(search_audit(database, before, most, {"who": "eve", "subject": "1"}))
        assert [entry.time for entry in found] == times
    assert len(asyncio.run(search_audit(database, None, 100, {"who": "e%"}))) == 26  # no pattern
