"""The update server is killed at random moments under load: what it has acknowledged is there when it starts again."""

import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine

from osbuild.fleet.postgresql import parse_address
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from tests.support.examples import examples
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, MISCOUNTED, RunningServer, databases, start_server

ROUNDS = examples(100, share=20, least=5)
REPORTERS, DEVICES = 3, 12
LONGEST = 1.0  # seconds of load before a kill
GATEWAY = "EDGE_TEST_GATEWAY"
VERBS = ("pause", "resume", "abort")
STATES = {"create": "running", "pause": "paused", "resume": "running", "abort": "aborted"}


@dataclass
class Acknowledged:
    """What the server has acknowledged: messages of reports, actions that ended, the orders for each rollout."""

    messages: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)
    orders: dict[str, list[str]] = field(default_factory=dict)


class KilledServer:
    """A server under load, and what it has acknowledged since its first start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "fleet"
        self.acknowledged = Acknowledged()
        self.token = ""
        self.server = self.start()
        make_bundle(folder / "one.raucb", load_keys(folder / "keys"), "1.1.0")
        self.bundle = self.server.publish(folder / "one.raucb")
        with self.gateway() as client:
            for kind, number in [("busy", number) for number in range(DEVICES)] + [("quiet", 0)]:
                assert client.get(f"{BASE}/{kind}-{number}").status_code == 200

    def start(self) -> RunningServer:
        server = start_server(self.data, "--gateway-token", f"env:{GATEWAY}", keys=self.folder / "keys")
        self.token = server.token = server.token or self.token
        return server

    def gateway(self) -> httpx.Client:
        headers = {"authorization": "GatewayToken secret"}
        return httpx.Client(verify=self.server.context(), base_url=self.server.url, headers=headers, timeout=60)

    def rows(self, statement: str) -> list[Any]:
        address = databases.address_of(self.data)
        engine = create_engine(parse_address(address) if address else f"sqlite:///{self.data}/fleet.db")
        with engine.connect() as connection:
            found = connection.exec_driver_sql(statement).all()
        engine.dispose()
        return list(found)

    def report_updates(self, part: int) -> None:
        """Be some of the busy devices, until the server is killed."""
        names = [f"busy-{number}" for number in range(DEVICES) if number % REPORTERS == part]
        with self.gateway() as client, suppress(httpx.TransportError):
            while True:
                for name in names:
                    links = client.get(f"{BASE}/{name}").json()["_links"]
                    if "deploymentBase" in links:
                        path = httpx.URL(links["deploymentBase"]["href"]).path
                        self.report(client, path, "proceeding", "none")
                        if self.report(client, path, "closed", "success"):
                            self.acknowledged.ended[path.rpartition("/")[2]] = "finished"
                    elif "cancelAction" in links:  # a newer rollout
                        self.report(client, httpx.URL(links["cancelAction"]["href"]).path, "closed", "success")

    def report(self, client: httpx.Client, path: str, execution: str, finished: str) -> bool:
        message = uuid.uuid4().hex
        status = {"execution": execution, "result": {"finished": finished}, "details": [message]}
        answer = client.post(f"{path}/feedback", json={"status": status})
        assert answer.status_code in (200, 410), answer.text  # 410: it was stored before the last kill
        if answer.status_code == 200:
            self.acknowledged.messages.add(message)
        return answer.status_code == 200

    def order_rollouts(self) -> None:
        """Create rollouts for the busy devices, and create, pause, resume and abort others, until the server ends."""
        with self.server.people() as people, suppress(httpx.TransportError):
            while True:
                self.create(people, f"busy-{uuid.uuid4().hex[:8]}", "busy-*")
                name = f"quiet-{uuid.uuid4().hex[:8]}"
                self.acknowledged.orders[name] = []
                self.create(people, name, "quiet-*")
                self.acknowledged.orders[name].append("create")
                for verb in VERBS:
                    answer = people.post(f"/rollouts/{name}/{verb}")
                    assert answer.status_code == 200, answer.text
                    self.acknowledged.orders[name].append(verb)

    def create(self, people: httpx.Client, name: str, pattern: str) -> None:
        groups = [{"percent": 50}, {"percent": 50}] if pattern == "busy-*" else [{"percent": 100}]
        order = {"name": name, "bundle": self.bundle, "groups": groups, "selection": {"name": pattern}, "now": True}
        answer = people.post("/rollouts", json=order)
        assert answer.status_code == 200, answer.text

    def kill_under_load(self, seconds: float) -> None:
        before = len(self.acknowledged.messages)
        with ThreadPoolExecutor() as pool:
            load = [pool.submit(self.report_updates, part) for part in range(REPORTERS)]
            load.append(pool.submit(self.order_rollouts))
            end = time.monotonic() + 60
            while len(self.acknowledged.messages) == before and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(seconds)
            self.server.process.kill()
            self.server.process.wait()
            for future in load:
                future.result()
        assert len(self.acknowledged.messages) > before, "there was no load"

    def check(self) -> None:
        """Compare what was acknowledged with the database."""
        stored = " ".join(row[0] for row in self.rows("SELECT messages FROM reports"))
        assert {message for message in self.acknowledged.messages if message not in stored} == set()
        states = {str(number): state for number, state in self.rows("SELECT id, state FROM actions")}
        assert {number: states.get(number) for number in self.acknowledged.ended} == self.acknowledged.ended
        rollouts = dict(self.rows("SELECT name, state FROM rollouts"))
        for name, orders in self.acknowledged.orders.items():
            verbs = ("create", *VERBS)
            following = verbs[len(orders) : len(orders) + 1]  # it may be stored without an answer
            allowed = {STATES[verb] for verb in (*orders[-1:], *following)} | (set() if orders else {None})
            assert rollouts.get(name) in allowed, (name, orders)
        # Each device of a rollout has got its order once, and no group began before the one before it had succeeded.
        assert self.rows("SELECT device FROM actions GROUP BY device, rollout HAVING count(*) > 1") == []
        groups = self.rows(
            "SELECT a.state FROM rollout_groups a JOIN rollout_groups b ON a.rollout = b.rollout "
            "WHERE a.position = b.position - 1 AND b.state != 'waiting'"
        )
        assert {state for (state,) in groups} <= {"succeeded"}
        assert self.rows(MISCOUNTED) == []


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KilledServer]:
    monkeypatch.setenv(GATEWAY, "secret")
    create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    killed = KilledServer(tmp_path)
    yield killed
    killed.server.process.terminate()
    assert killed.server.process.wait(60) == 0


def test_what_was_acknowledged_is_there_after_kills_under_load(killed: KilledServer) -> None:
    """EDGE_FUZZ=all kills the server 100 times."""
    for _ in range(ROUNDS):
        killed.kill_under_load(random.uniform(0, LONGEST))
        killed.server = killed.start()
        killed.check()
    assert killed.acknowledged.ended and killed.acknowledged.orders
