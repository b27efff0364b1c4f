"""What devices are offered in and before maintenance windows, and while others download. The server's clock is set."""

import asyncio
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy import Connection

from osbuild.fleet import actions
from osbuild.fleet.actions import Assignment
from osbuild.fleet.application import make_application
from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundles import FileStore, NewBundle, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.devices import register_device
from osbuild.fleet.downloads import DownloadLimit
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionKind, ActionState
from osbuild.fleet.tokens import hash_token

T = TypeVar("T")
BASE = "/DEFAULT/controller/v1"
CONTENTS = bytes(range(256)) * 16


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@dataclass
class TimedServer:
    """The application, with devices that a gateway speaks for."""

    service: Service
    runner: asyncio.Runner
    client: httpx.AsyncClient
    bundle: int
    now: list[int] = field(default_factory=lambda: [0])

    def ask(self, method: str, address: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, address, **options))

    def describe(self, name: str, zone: str) -> None:
        """Send the attributes of a device."""
        self.ask("PUT", f"{BASE}/{name}/configData", json={"data": {"timezone": zone}})

    def store_downloads(self) -> None:
        self.runner.run(self.service.store_downloads())

    def change(self, work: Callable[[Connection], T]) -> T:
        return self.service.database.begin_change(work).result()

    def assign(self, name: str, **options: Any) -> int:
        device = self.change(lambda c: register_device(c, name, 0))
        return self.change(
            lambda c: actions.assign_bundle(c, device.id, Assignment(self.bundle, **options), self.now[0])
        )

    def poll(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = self.get(f"{BASE}/{name}").json()
        return document

    def link(self, name: str) -> str | None:
        """Return the address of the update that a device is offered."""
        links = self.poll(name)["_links"]
        return links["deploymentBase"]["href"] if "deploymentBase" in links else None

    def get(self, address: str, **headers: str) -> httpx.Response:
        return self.ask("GET", address, headers=headers)

    def report(self, name: str, action: int, execution: str, finished: str = "none", **more: Any) -> int:
        status = {"execution": execution, "result": {"finished": finished}}
        address = f"{BASE}/{name}/deploymentBase/{action}/feedback"
        return self.ask("POST", address, json={"status": status, **more}).status_code

    def state(self, action: int) -> ActionState:
        (row,) = (found for found in self.change(lambda c: actions.newest_actions(c, 1, 100)) if found.id == action)
        return row.state

    def history(self, action: int) -> list[str]:
        return self.change(lambda c: actions.read_history(c, action, 100))

    def advance(self, **units: int) -> None:
        self.now[0] += 1000 * (units.get("seconds", 0) + 60 * units.get("minutes", 0) + 3600 * units.get("hours", 0))


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TimedServer]:
    now = [milliseconds("2026-12-04T12:00+00:00")]  # a Friday
    database, files = Database(tmp_path / "fleet.db"), FileStore(tmp_path / "files")
    service = Service(
        database, files, load_authority(tmp_path, "device-ca"), tmp_path / "keyring.pem",
        gateway_hash=hash_token("gate"), clock=lambda: now[0],
        downloads=DownloadLimit(getattr(request, "param", None)),
    )  # fmt: skip
    stored = files.store_file(io.BytesIO(CONTENTS))
    new = NewBundle("os", "1.0", "edge", "1.0.raucb")
    bundle = database.begin_change(lambda c: add_bundle(c, new, stored, 0)).result()
    headers = {"authorization": "GatewayToken gate"}
    transport = httpx.ASGITransport(make_application(service))
    client = httpx.AsyncClient(transport=transport, base_url="https://updates.example", headers=headers)
    with asyncio.Runner() as runner:
        yield TimedServer(service, runner, client, bundle.id, now)
        runner.run(client.aclose())
    database.close()


def test_an_update_waits_for_the_window_in_the_time_zone_of_the_device(server: TimedServer) -> None:
    action = server.assign("one", maintenance=MaintenanceSchedule("Sat 02:00-04:00"))
    server.describe("one", "Europe/Berlin")
    server.now[0] = milliseconds("2026-12-05T01:50:00+01:00")
    before = server.get(f"{BASE}/one")
    link = before.json()["_links"]["deploymentBase"]["href"]
    assert before.json()["config"]["polling"]["sleep"] == "00:03:20", "a third of the ten minutes until the window"
    assert server.get(f"{BASE}/one", **{"if-none-match": before.headers["etag"]}).status_code == 304
    closed = server.get(link).json()["deployment"]
    assert (closed["download"], closed["update"], closed["maintenanceWindow"]) == ("forced", "skip", "unavailable")
    server.now[0] = milliseconds("2026-12-05T01:59:50+01:00")
    assert server.poll("one")["config"]["polling"]["sleep"] == "00:00:30"
    server.now[0] = milliseconds("2026-12-05T02:00:00+01:00")
    after = server.get(f"{BASE}/one", **{"if-none-match": before.headers["etag"]})
    assert after.status_code == 200 and after.json()["config"]["polling"]["sleep"] == "00:05:00"
    opened = after.json()["_links"]["deploymentBase"]["href"]
    assert opened != link and f"deploymentBase/{action}?" in opened
    document = server.get(opened).json()["deployment"]
    assert (document["update"], document["maintenanceWindow"]) == ("forced", "available")
    server.now[0] = milliseconds("2026-12-05T04:00:00+01:00")
    assert server.link("one") == link and server.poll("one")["config"]["polling"]["sleep"] == "00:05:00"


def test_a_zone_of_the_rollout_is_that_of_all_devices_and_without_any_it_is_utc(server: TimedServer) -> None:
    server.assign("one", maintenance=MaintenanceSchedule("20:00-21:00", "Asia/Tokyo"))
    server.assign("two", maintenance=MaintenanceSchedule("11:30-12:30"))
    server.assign("three", kind=ActionKind.soft)
    for name in ("one", "two"):
        server.describe(name, "Mars/Olympus")
    windows = [server.get(str(server.link(name))).json()["deployment"] for name in ("one", "two", "three")]
    server.now[0] = milliseconds("2026-12-04T11:15+00:00")
    windows += [server.get(str(server.link(name))).json()["deployment"] for name in ("one", "two")]
    assert [document.get("maintenanceWindow") for document in windows] == [
        "unavailable", "available", None, "available", "unavailable"
    ]  # fmt: skip
    assert windows[2]["update"] == windows[2]["download"] == "attempt"


def test_an_action_whose_windows_are_over_is_cancelled_once_at_the_next_poll(server: TimedServer) -> None:
    until = milliseconds("2026-12-05T12:00+00:00")
    action = server.assign("one", maintenance=MaintenanceSchedule("02:00-04:00", until=until))
    server.now[0] = milliseconds("2026-12-05T01:00+00:00")
    assert server.link("one")
    server.now[0] = milliseconds("2026-12-05T04:00+00:00")
    assert server.state(action) is ActionState.running
    assert set(server.poll("one")["_links"]) == {"cancelAction", "configData"}
    assert server.history(action) == [actions.LAPSED]
    status = {"execution": "rejected", "result": {"finished": "none"}}
    server.ask("POST", f"{BASE}/one/cancelAction/{action}/feedback", json={"status": status})
    assert server.link("one") and server.state(action) is ActionState.running, "the device has begun"


@pytest.mark.parametrize("server", [1], indirect=True)
def test_devices_wait_while_as_many_as_may_download(server: TimedServer) -> None:
    first, second = server.assign("one"), server.assign("two")
    offered = server.link("one")
    assert offered and server.link("two") is None and server.link("one") == offered
    bundle = server.get(offered).json()["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download"]["href"]
    for _ in range(5):
        server.advance(seconds=50)
        assert server.get(bundle, range="bytes=0-99").status_code == 206
        server.store_downloads()
        assert server.link("two") is None
    server.advance(seconds=61)
    assert server.link("two"), "the first one makes a break"
    assert server.link("one") == offered, "it has begun, so it goes on"
    assert server.get(bundle, range="bytes=100-199").content == CONTENTS[100:200]
    third = server.assign("three")
    assert server.link("three") is None
    assert server.report("two", second, "closed", "success") == server.report("one", first, "downloaded") == 200
    server.store_downloads()
    server.advance(seconds=61)
    assert server.link("three") and server.report("three", third, "closed", "failure") == 200


@pytest.mark.parametrize("server", [1], indirect=True)
def test_a_device_that_does_not_begin_loses_its_turn(server: TimedServer) -> None:
    server.assign("one")
    server.assign("two")
    assert server.link("one") and server.link("two") is None
    server.advance(seconds=121)
    assert server.link("two") and server.link("one") is None
    server.advance(seconds=121)
    assert server.link("one") and server.link("two") is None


def test_a_download_of_the_whole_bundle_is_recorded_and_ranges_are_not(server: TimedServer) -> None:
    action = server.assign("one")
    offered = server.get(str(server.link("one"))).json()["deployment"]["chunks"][0]["artifacts"][0]
    address = offered["_links"]["download"]["href"]
    assert server.get(address, range="bytes=0-9").content == CONTENTS[:10]
    assert server.get(address, range="bytes=0-9,20-29").status_code == 206
    assert server.ask("HEAD", address).status_code == 200
    assert server.get(address, range="bytes=9999-").status_code == 416
    assert server.get(address, **{"if-match": '"other"'}).status_code == 412
    assert server.history(action) == []
    assert server.get(address, range="bytes=0-9", **{"if-range": '"other"'}).content == CONTENTS
    assert server.history(action) == [actions.DOWNLOADING]


def test_headers_of_proxies_change_no_address(server: TimedServer) -> None:
    server.assign("one")
    headers = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "forwarded": "host=evil.example"}
    answer = server.get(f"{BASE}/one", **headers).json()
    assert answer["_links"]["deploymentBase"]["href"].startswith(f"https://updates.example{BASE}/one/")


@pytest.mark.parametrize(("offset", "stored"), [(-60_000, -60_000), (1, 0), (-(10**9), 0), (None, 0)])
def test_a_report_has_the_time_of_the_device_if_that_can_be_right(
    server: TimedServer, offset: int | None, stored: int
) -> None:
    action = server.assign("one")
    server.advance(hours=1)
    more: dict[str, Any] = {} if offset is None else {"timestamp": server.now[0] + offset}
    assert server.report("one", action, "proceeding", **more) == 200
    times = server.change(lambda c: [row.time for row in c.exec_driver_sql("SELECT time FROM reports")])
    assert times == [server.now[0] + stored]
