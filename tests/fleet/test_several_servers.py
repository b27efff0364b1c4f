"""Several update servers on one PostgreSQL, under load at the same time."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, create_engine

from osbuild.fleet.postgresql import DRIVER
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from tests.support.postgresql import PostgresqlServer, text_of
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, MISCOUNTED, RunningServer, start_server

DEVICES, PATIENCE = 12, 60
GATEWAY, DATABASE = "EDGE_TEST_GATEWAY", "EDGE_TEST_DATABASE"


class TwoServers:
    """Two servers on one database and one data folder, and devices that ask either of them by chance."""

    def __init__(self, address: URL, servers: list[RunningServer]) -> None:
        self.address, self.servers = address, servers
        self.acknowledged: set[str] = set()

    def rows(self, statement: str) -> list[Any]:
        engine = create_engine(self.address.set(drivername=DRIVER))
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(statement).fetchall()
        engine.dispose()
        return [tuple(row) for row in rows]

    def devices(self) -> list[httpx.Client]:
        """Clients of the gateway, one for each server."""
        headers = {"authorization": "GatewayToken secret"}
        return [
            httpx.Client(verify=server.context(), base_url=server.url, headers=headers, timeout=PATIENCE)
            for server in self.servers
        ]

    def follow(self, number: int, outcome: Callable[[int], str], end: Callable[[], bool]) -> None:
        """Be a device that polls, reports progress, and then how its update has ended, until `end`."""
        name = f"till-{number:02}"
        with ExitStack() as stack:
            clients = [stack.enter_context(client) for client in self.devices()]
            while not end():
                for client in clients:
                    links = client.get(f"{BASE}/{name}").json()["_links"]
                    link = links.get("deploymentBase") or links.get("cancelAction")
                    if link is None:
                        continue
                    other = clients[clients.index(client) - 1]
                    path = httpx.URL(link["href"]).path
                    for execution, finished in (("proceeding", "none"), ("closed", outcome(number))):
                        self.report(other, path, execution, finished)

    def report(self, client: httpx.Client, path: str, execution: str, finished: str) -> None:
        message = uuid.uuid4().hex
        status = {"execution": execution, "result": {"finished": finished}, "details": [message]}
        answer = client.post(f"{path}/feedback", json={"status": status})
        assert answer.status_code in (200, 410), answer.text
        if answer.status_code == 200:
            self.acknowledged.add(message)

    def follow_all(self, outcome: Callable[[int], str], rollout: str, *states: str) -> dict[str, Any]:
        """Let all devices follow at the same time, until the rollout has one of `states`. Return it."""
        ended = threading.Event()
        with ThreadPoolExecutor(DEVICES) as pool:
            followers = [pool.submit(self.follow, number, outcome, ended.is_set) for number in range(DEVICES)]
            try:
                for _ in range(PATIENCE):
                    view = self.servers[0].rollout(rollout)
                    if view["state"] in states or any(follower.done() for follower in followers):
                        break
                    ended.wait(0.5)
            finally:
                ended.set()
            for follower in followers:
                follower.result()
        return self.servers[1].rollout(rollout)


@pytest.fixture
def fleet(postgresql: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoServers]:
    address = postgresql.create_database()
    monkeypatch.setenv(DATABASE, text_of(address))
    monkeypatch.setenv(GATEWAY, "secret")
    create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    options = ("--database", f"env:{DATABASE}", "--gateway-token", f"env:{GATEWAY}")
    servers = [start_server(tmp_path / "fleet", *options)]
    try:
        servers.append(start_server(tmp_path / "fleet", *options))
        servers[1].token = servers[0].token
        fleet = TwoServers(address, servers)
        for number in range(DEVICES):
            with fleet.devices()[number % 2] as client:
                assert client.get(f"{BASE}/till-{number:02}").status_code == 200
        yield fleet
    finally:
        for server in servers:
            server.process.terminate()
        assert [server.process.wait(60) for server in servers] == [0] * len(servers)


def publish(fleet: TwoServers, folder: Path) -> int:
    make_bundle(folder / "one.raucb", load_keys(folder / "keys"), "1.1.0")
    return fleet.servers[1].publish(folder / "one.raucb")


def test_two_servers_begin_no_group_twice_and_lose_no_report(fleet: TwoServers, tmp_path: Path) -> None:
    fleet.servers[0].create_rollout("winter", publish(fleet, tmp_path), 25, 25, 50)
    view = fleet.follow_all(lambda _: "success", "winter", "finished", "paused")
    assert (view["state"], [group["succeeded"] for group in view["groups"]]) == ("finished", [3, 3, 6])
    assert fleet.rows("SELECT device, count(*) FROM actions GROUP BY device HAVING count(*) > 1") == []
    assert fleet.rows("SELECT count(*) FROM actions") == [(DEVICES,)]
    assert fleet.rows(MISCOUNTED) == []
    stored = " ".join(text for (text,) in fleet.rows("SELECT messages FROM reports"))
    assert len(fleet.acknowledged) == 2 * DEVICES
    assert {message for message in fleet.acknowledged if message not in stored} == set()


def test_two_servers_miss_no_threshold(fleet: TwoServers, tmp_path: Path) -> None:
    """Half of the first group fail, at about the same time, at both servers: the second group must not begin."""
    groups = [{"percent": 50, "success": 60, "error": 50}, {"percent": 50}]
    order = {"name": "winter", "bundle": publish(fleet, tmp_path), "groups": groups, "now": True}
    fleet.servers[0].order("/rollouts", order)
    joined = "SELECT d.name FROM rollout_members m JOIN devices d ON d.id = m.device JOIN actions a ON a.id = m.action"
    failing = [f"{name}" for (name,) in sorted(fleet.rows(joined))][:3]
    view = fleet.follow_all(
        lambda number: "failure" if f"till-{number:02}" in failing else "success", "winter", "paused", "finished"
    )
    assert (view["state"], view["reason"]) == ("paused", "group 1: 3 of 6 devices have failed; the limit is 50 %")
    assert [group["state"] for group in view["groups"]] == ["running", "waiting"]
    assert fleet.rows("SELECT count(*) FROM actions") == [(6,)]
    assert fleet.rows(MISCOUNTED) == []


def test_a_server_that_ends_leaves_nothing_behind_that_the_other_one_waits_for(
    fleet: TwoServers, tmp_path: Path
) -> None:
    bundle = publish(fleet, tmp_path)
    fleet.servers[0].process.kill()
    fleet.servers[0].process.wait()
    second = fleet.servers.pop(1)
    second.create_rollout("winter", bundle, 100)
    fleet.servers[0] = second
    assert second.rollout("winter")["state"] == "running"


def test_a_server_connects_again_after_postgresql_was_started_again(
    fleet: TwoServers, postgresql: PostgresqlServer
) -> None:
    postgresql.restart()
    for server in fleet.servers:
        with server.people() as people:
            assert len(people.get("/devices").json()) == DEVICES
            assert people.post("/enrolment-tokens", json={}).status_code == 200
