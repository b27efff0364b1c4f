"""Requests of operators through all parts: a real update server, the unprivileged part, and root."""

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from osbuild.agent.fleet.action_record import load_record
from osbuild.agent.fleet.connection import FleetServer
from osbuild.agent.fleet.follower import REQUEST_SLEEP, Follower
from osbuild.agent.fleet.identity import prepare_identity, rotate_identity
from osbuild.agent.fleet.order import OrderedInstaller
from osbuild.agent.fleet.outcome import UpdateOutcome, store_outcome
from osbuild.agent.fleet.request_carrier import RequestCarrier
from osbuild.agent.fleet.request_files import REQUEST_FILE
from osbuild.agent.fleet.request_handling import RequestActions, RequestHandler, find_last_result
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server

ARCHIVE = gzip.compress(b"journal" * 1000)
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


class CarryingDevice:
    """A device that is enrolled, with both parts of the agent."""

    def __init__(self, server: RunningServer, folder: Path, name: str) -> None:
        authority = (server.data / "tls/server-ca.crt").read_text()
        requests = ("diagnostics", "reboot", "rotate", "wipe")
        self.server, self.name, self.system = server, name, System(folder)
        self.settings = FleetSettings(name, server.url, authority, create_token(server), requests=requests)
        self.reboots = 0
        self.boot("first")
        context = prepare_identity(self.system, self.settings).make_context()
        self.follower = Follower(
            self.system, FleetServer(self.settings.base, context), OrderedInstaller(self.system), dict,
            RequestCarrier(self.system, self.rotate),
        )  # fmt: skip

    def rotate(self) -> FleetServer:
        return FleetServer(self.settings.base, rotate_identity(self.system, self.settings).make_context())

    def boot(self, boot: str) -> None:
        path = self.system.path(BOOT_ID)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(boot)
        self.system.path("/run").mkdir(exist_ok=True)
        find_last_result(self.system, clock())

    def reboot(self) -> None:
        self.reboots += 1

    def handle(self) -> None:
        """Do what root does when systemd sees the request."""
        actions = RequestActions(
            collect=lambda: ARCHIVE, reboot=self.reboot, roll_back=lambda: None,
            wipe=lambda announce: announce(), is_busy=lambda: False, clock=clock,
        )  # fmt: skip
        RequestHandler(self.system, self.settings, actions, announcement=0).handle_offered()

    def request(self, kind: str) -> int:
        return int(self.server.order(f"/devices/{self.name}/requests", {"kind": kind})["id"])

    def view(self, number: int) -> dict[str, Any]:
        with self.server.people() as people:
            view: dict[str, Any] = people.get(f"/requests/{number}").json()
        return view


def clock() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def device(server: RunningServer, tmp_path: Path, request: pytest.FixtureRequest) -> CarryingDevice:
    return CarryingDevice(server, tmp_path, f"device-{abs(hash(request.node.name)) % 10**6}")


def audit(server: RunningServer, subject: str) -> list[str]:
    with server.people() as people:
        return [entry["event"] for entry in people.get("/audit").json() if entry["subject"] == subject]


def test_diagnostics_reach_the_operator(device: CarryingDevice) -> None:
    number = device.request("diagnostics")
    assert device.view(number)["state"] == "waiting"
    assert device.follower.step() == REQUEST_SLEEP
    assert device.view(number)["state"] == "delivered"
    device.handle()
    assert device.follower.step() == REQUEST_SLEEP
    view = device.view(number)
    assert (view["state"], view["diagnostics"], view["who"]) == ("succeeded", True, "admin")
    assert device.follower.step() == 300
    with device.server.people() as people:
        answer = people.get(f"/requests/{number}/diagnostics")
        assert answer.content == ARCHIVE and answer.headers["content-type"] == "application/gzip"
        assert people.get(f"/devices/{device.name}/requests").json() == [view]
    assert audit(device.server, device.name)[:3] == ["diagnostics read", "request succeeded", "request created"]


def test_a_reboot_is_reported_after_it(device: CarryingDevice) -> None:
    number = device.request("reboot")
    for _ in range(3):
        device.follower.step()
        device.handle()
        assert device.view(number)["state"] == "delivered"
    assert device.reboots == 1
    device.boot("second")
    device.follower.step()
    assert device.view(number)["state"] == "succeeded" and device.reboots == 1


def test_a_request_that_the_profile_does_not_allow_is_reported_as_rejected(device: CarryingDevice) -> None:
    number = device.request("rollback")
    device.follower.step()
    device.handle()
    device.follower.step()
    view = device.view(number)
    assert view["state"] == "rejected" and "does not allow `rollback`" in view["details"][0]


def test_what_is_changed_on_the_way_is_rejected(device: CarryingDevice) -> None:
    number = device.request("reboot")
    device.follower.step()
    path = device.system.path(REQUEST_FILE)
    path.write_bytes(path.read_bytes().replace(b"A", b"B"))
    device.handle()
    assert device.reboots == 0 and device.view(number)["state"] == "delivered"


def test_new_credentials_replace_the_old_ones(device: CarryingDevice) -> None:
    number, old = device.request("rotate"), device.follower.server
    key = device.system.path("/var/lib/edge-fleet/device.key").read_bytes()
    device.follower.step()
    device.handle()
    device.follower.step()
    assert device.view(number)["state"] == "succeeded"
    assert device.system.path("/var/lib/edge-fleet/device.key").read_bytes() != key
    assert device.follower.server.get().status == 200
    assert old.get().status == 401, "the old certificate is revoked"
    device.follower.failures = 0
    assert device.follower.step() == 300


def test_during_an_update_the_key_stays_because_the_bundle_is_downloaded_with_it(
    device: CarryingDevice, tmp_path: Path
) -> None:
    bundle = tmp_path / "2.0.0.raucb"
    make_bundle(bundle, load_keys(device.server.data.parent / "keys"), "2.0.0")
    action = device.server.order_update(device.name, bundle)
    device.follower.step()
    number, old = device.request("rotate"), device.follower.server
    for _ in range(3):
        device.follower.step()
        device.handle()
    assert device.view(number)["state"] == "delivered" and old.get().status == 200
    record = load_record(device.system)
    assert record is not None
    store_outcome(device.system, UpdateOutcome(record.order, True, ("2.0.0 is committed",)))
    device.follower.step()
    assert device.server.actions(device.name) == [(action, "finished")]
    assert device.view(number)["state"] == "succeeded" and old.get().status == 401


def test_a_device_that_wipes_itself_is_decommissioned(device: CarryingDevice) -> None:
    number = device.request("wipe")
    device.follower.step()
    device.handle()
    device.follower.step()
    assert device.view(number)["state"] == "succeeded"
    assert device.follower.server.get().status == 401
    assert device.server.is_decommissioned(device.name)
    assert "device decommissioned" in audit(device.server, device.name)


def test_devices_see_only_their_own_requests_and_send_only_what_is_asked(
    device: CarryingDevice, server: RunningServer, tmp_path: Path
) -> None:
    number = device.request("diagnostics")
    address = f"{BASE}/{device.name}/requests/{number}"
    with server.enrol("stranger", create_token(server), tmp_path) as stranger:
        assert stranger.get(f"{BASE}/stranger/requests/{number}").status_code == 404
        assert stranger.get(address).status_code == 401
    folder = device.system.path("/var/lib/edge-fleet")
    context = server.context()
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    with httpx.Client(verify=context, base_url=server.url) as own:
        assert own.put(f"{address}/diagnostics", content=ARCHIVE).status_code == 410, "not delivered yet"
        assert own.get(address).status_code == 200
        assert own.put(f"{address}/diagnostics", content=b"text").status_code == 415
        assert own.put(f"{address}/diagnostics", content=ARCHIVE + bytes(4 * 2**20)).status_code == 413
        for body in ({"state": "waiting"}, {"state": "succeeded", "details": [7]}, {}):
            assert own.post(f"{address}/result", json=body).status_code == 400


def test_roles_decide_who_may_request_what(device: CarryingDevice) -> None:
    server, path = device.server, f"/devices/{device.name}/requests"
    allowed = {"viewer": set[str](), "operator": {"diagnostics", "reboot", "rotate", "rollback"}}
    for role, kinds in allowed.items():
        token = server.order("/tokens", {"name": f"{role}-{device.name}", "role": role})["token"]
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(verify=server.context(), base_url=f"{server.url}/api/v1", headers=headers) as people:
            assert people.get(path).status_code == 200
            for kind in ("diagnostics", "reboot", "rotate", "rollback", "wipe"):
                assert people.post(path, json={"kind": kind}).status_code == (200 if kind in kinds else 403), kind
            assert people.get("/requests/999999/diagnostics").status_code == (403 if role == "viewer" else 404)
    with server.people() as people:
        for order in ({"kind": "explode"}, {"kind": "reboot", "seconds": 24 * 3600 + 1}, {"kind": "reboot", "x": 1}):
            assert people.post(path, json=order).status_code == 400
