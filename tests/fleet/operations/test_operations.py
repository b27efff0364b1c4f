"""What operators of the update server see: readiness, metrics, the log, and how it ends."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.mounted import full, mount_tmpfs
from tests.support.update_server import BASE, RunningServer, create_token, running_server, start_server

FREE = 64 * 2**20  # bytes that must be free
MEMORY = 80 * 2**20  # bytes at rest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def samples(server: RunningServer) -> dict[str, float]:
    """The metrics, as an administrator reads them."""
    with server.anybody() as anybody:
        answer = anybody.get("/metrics", headers={"authorization": f"Bearer {server.token}"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.sqlite
def test_metrics_count_requests_and_the_fleet_for_people_with_a_token(server: RunningServer, tmp_path: Path) -> None:
    rest = samples(server)["process_resident_memory_bytes"]
    assert 2**20 < rest < MEMORY
    before = samples(server)
    with server.enrol("shop-1", create_token(server), tmp_path) as device:
        for _ in range(3):
            assert device.get(f"{BASE}/shop-1").status_code == 200
        assert device.get(f"{BASE}/shop-2").status_code == 401
        assert device.request("PROPFIND", f"{BASE}/shop-1").status_code == 405
    after = samples(server)
    path = "/{tenant}/controller/v1/{device}"
    name = 'edge_fleet_requests_total{method="METHOD",route="' + path + '",status="STATUS"}'
    for method, status, count in (("GET", "200", 3), ("GET", "401", 1), ("other", "405", 1)):
        series = name.replace("METHOD", method).replace("STATUS", status)
        assert after[series] - before.get(series, 0) == count
    assert after['edge_fleet_request_seconds_count{method="GET",route="' + path + '"}'] >= 4
    assert not [line for line in after if "shop-1" in line], "a series for each device would be too many"
    assert after["edge_fleet_free_bytes"] > 0
    with server.anybody() as anybody:
        for headers in ({}, {"authorization": "Bearer edge_access_x"}):
            assert anybody.get("/metrics", headers=headers).status_code == 401


@pytest.mark.sqlite
def test_the_server_is_ready_while_its_database_makes_changes(server: RunningServer) -> None:
    with server.anybody() as anybody:
        assert (anybody.get("/readyz").status_code, anybody.get("/readyz").text) == (200, "ok\n")
        blocking = sqlite3.connect(server.data / "fleet.db", isolation_level=None)
        blocking.execute("BEGIN IMMEDIATE")
        answer = anybody.get("/readyz", timeout=60)
        assert (answer.status_code, answer.text) == (503, "the database does not answer\n")
        blocking.close()
        assert anybody.get("/readyz", timeout=60).status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_server_on_a_full_disk_is_not_ready(tmp_path: Path) -> None:
    with mount_tmpfs(tmp_path / "disk", FREE + 8 * 2**20) as disk, running_server(disk) as server:
        with server.anybody() as anybody:
            assert anybody.get("/readyz").status_code == 200
            with (disk / "large").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 8 * 2**20)
            answer = anybody.get("/readyz")
            assert (answer.status_code, answer.text) == (
                503, "the disk is full: less than 64 MiB are free for bundles\n",
            )  # fmt: skip
            (disk / "large").unlink()
            assert anybody.get("/readyz").status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_changes_are_refused_while_the_disk_of_the_database_is_full(tmp_path: Path) -> None:
    """Each kind of client is told to try again later; the log has one line, and all is as before afterwards."""
    with mount_tmpfs(tmp_path / "disk", 8 * 2**20) as disk, running_server(disk) as server:
        with server.people() as people, server.enrol("shop-1", create_token(server), disk) as device:
            with full(disk):
                for _ in range(3):
                    refused = people.post("/enrolment-tokens", json={"uses": 1})
                    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
                    assert refused.json()["code"] == "database-failure"
                    answer = device.put(f"{BASE}/shop-1/configData", json={"data": {"note": "x" * 100}})
                    assert (answer.status_code, answer.json()["errorCode"]) == (503, "database-failure")
                    with server.anybody() as anybody:
                        body = {"device": "shop-2", "token": "wrong", "request": "x"}
                        answer = anybody.post("/enrol/v1", json=body)  # that it is refused has to be recorded
                    assert (answer.status_code, answer.json()["errorCode"]) == (503, "database-failure")
                assert device.get(f"{BASE}/shop-1").status_code == 200
            assert device.put(f"{BASE}/shop-1/configData", json={"data": {"note": "y"}}).status_code == 200
        assert server.attributes("shop-1") == {"note": "y"}
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert server.process.stderr is not None
    assert server.process.stderr.read() == "warning: the database fails: database or disk is full\n"


def test_requests_are_logged_only_if_wanted_as_json_and_without_secrets(tmp_path: Path) -> None:
    with running_server(tmp_path) as quiet:
        token, secret = quiet.token, create_token(quiet, uses=5)
        with quiet.enrol("shop-1", secret, tmp_path):
            pass
    assert quiet.process.stderr is not None and quiet.process.stderr.read() == ""
    server = start_server(tmp_path / "fleet", "--access-log", "--log-format", "json")
    server.token = token
    try:
        with server.client("shop-1", tmp_path) as device, server.anybody() as anybody, server.people() as people:
            device.get(f"{BASE}/shop-1?secret=hidden")
            people.get("/devices")
            people.post("/devices/shop-1/target-token")
            anybody.post("/enrol/v1", json={"device": "shop-2", "request": "x", "token": secret})
            anybody.get("/nothing/%0d%0a%1b[31m")
    finally:
        server.process.terminate()
    output, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0 and output == ""
    entries = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "message"} <= entry.keys() for entry in entries)
    requests = [entry for entry in entries if entry["message"] == "request"]
    assert [(entry["method"], entry["path"], entry["status"], entry["requester"]) for entry in requests] == [
        ("GET", f"{BASE}/shop-1", "200", "device shop-1"),
        ("GET", "/api/v1/devices", "200", "token admin"),
        ("POST", "/api/v1/devices/shop-1/target-token", "200", "token admin"),
        ("POST", "/enrol/v1", "400", ""),
        ("GET", "/nothing/\r\n\x1b[31m", "404", ""),
    ]
    assert all(0 < entry["seconds"] < 60 and entry["address"] == "127.0.0.1" for entry in requests)
    for word in (token, secret, "hidden", "edge_access_", "edge_enrol_"):
        assert word not in log


def test_a_server_that_ends_under_load_answers_what_it_has_accepted(tmp_path: Path) -> None:
    names = [f"shop-{number}" for number in range(4)]
    with running_server(tmp_path) as server:
        secret = create_token(server, uses=len(names))
        clients = [server.enrol(name, secret, tmp_path) for name in names]
        acknowledged = dict.fromkeys(names, 0)
        strange: list[str] = []
        begun = threading.Barrier(len(names) + 1)

        def report(name: str, device: httpx.Client) -> None:
            begun.wait()
            for count in range(1, 100_000):
                try:
                    answer = device.put(f"{BASE}/{name}/configData", json={"data": {"count": str(count)}})
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    return
                if answer.status_code != 200:
                    strange.append(f"{answer.status_code} {answer.text}")
                    return
                acknowledged[name] = count

        threads = [threading.Thread(target=report, args=pair) for pair in zip(names, clients, strict=True)]
        for thread in threads:
            thread.start()
        begun.wait()
        while min(acknowledged.values()) < 5:
            assert any(thread.is_alive() for thread in threads), strange
        server.process.terminate()
        assert server.process.wait(60) == 0
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert strange == []
    restarted = start_server(tmp_path / "fleet")
    restarted.token = server.token
    stored = {name: int(restarted.attributes(name)["count"]) for name in names}
    restarted.process.terminate()
    assert restarted.process.wait(60) == 0
    # The last report may have been stored without its answer; none that was answered may be lost.
    assert all(stored[name] - acknowledged[name] in (0, 1) for name in names), (stored, acknowledged)


def test_idle_connections_do_not_delay_the_end_of_the_server(tmp_path: Path) -> None:
    """The client keeps its connection and does not read, as one that polls rarely. The end has no message then."""
    with running_server(tmp_path) as server, server.anybody() as client:
        assert client.get("/healthz").text == "ok\n"
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert server.process.stderr is not None and server.process.stderr.read() == ""
