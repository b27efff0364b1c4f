"""A device that follows a real update server. The part that writes slots is replaced by the records that it makes."""

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet import cancellation, confirmation, outcome
from osbuild.agent.fleet.action_record import ActionRecord, ActionStage, load_record
from osbuild.agent.fleet.cancellation import CancellationWatch, OrderCancelled, is_cancelled
from osbuild.agent.fleet.connection import FleetServer
from osbuild.agent.fleet.follower import Follower
from osbuild.agent.fleet.order import OrderedInstaller, forget_taken_order, take_order
from osbuild.agent.fleet.outcome import UpdateOutcome
from osbuild.agent.http import ServerToken, TlsFiles
from osbuild.agent.system import System
from osbuild.agent.update import download, history
from osbuild.agent.update.download import BundleDownload
from osbuild.agent.update.history import UpdateEvent
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.keys.key_folder import load_keys
from osbuild.shared.maintenance_window import parse_windows
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@dataclass
class RecordingInstaller:
    """Has nothing installed, but keeps the same history as `edge-agent update install`."""

    system: System
    ordered: list[ActionRecord] = field(default_factory=list)
    switched: bool = False

    def order(self, record: ActionRecord) -> None:
        self.ordered.append(record)
        self.append(UpdateEvent.started, record)

    def cancel(self, record: ActionRecord) -> bool:
        return not self.switched

    def stop(self, record: ActionRecord) -> bool:
        return not self.switched

    def outcome(self, record: ActionRecord) -> UpdateOutcome | None:
        return outcome.find_outcome(self.system, record.order, only_download=record.only_download)

    def append(self, event: UpdateEvent, record: ActionRecord, **details: str) -> None:
        update = PendingUpdate(
            f"id-{record.order}", UpdateKind.update, UpdateStage.writing, "a", "b", {"version": "1.0.0"},
            {"version": record.version}, record.url, "hash", reference=outcome.order_reference(record.order),
        )  # fmt: skip
        history.append_event(self.system, event, update, source=record.url, **details)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@dataclass
class FollowingDevice:
    """A device, and what the server knows about it."""

    name: str
    server: RunningServer
    follower: Follower
    installer: RecordingInstaller

    def order_update(self, version: str, folder: Path, **options: object) -> int:
        bundle = folder / f"{version}.raucb"
        make_bundle(bundle, load_keys(self.server.data.parent / "keys"), version)
        return self.server.order_update(self.name, bundle, **options)

    def actions(self) -> list[tuple[int, str]]:
        return self.server.actions(self.name)

    def messages(self) -> list[str]:
        return self.server.messages(self.name)


@pytest.fixture
def device(server: RunningServer, tmp_path: Path, request: pytest.FixtureRequest) -> FollowingDevice:
    name = f"device-{abs(hash(request.node.name)) % 10**6}"
    server.enrol(name, create_token(server), tmp_path).close()
    files = TlsFiles(server.data / "tls/server-ca.crt", tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
    system = System(tmp_path / "root")
    installer = RecordingInstaller(system)
    fleet = FleetServer(f"{server.url}{BASE}/{name}", files.make_context())
    return FollowingDevice(name, server, Follower(system, fleet, installer, lambda: {"version": "1.0.0"}), installer)


def test_a_device_says_what_it_is_and_then_polls_rarely(device: FollowingDevice) -> None:
    assert device.follower.step() == 300
    with device.server.people() as people:
        assert people.get(f"/devices/{device.name}").json()["attributes"] == {"version": "1.0.0"}


def test_an_update_is_ordered_once_and_reported_after_its_verdict(device: FollowingDevice, tmp_path: Path) -> None:
    action = device.order_update("2.0.0", tmp_path)
    assert device.follower.step() < 60, "it polls often while it is busy"
    (record,) = device.installer.ordered
    assert (record.action, record.version) == (str(action), "2.0.0")
    assert device.actions() == [(action, "running")] and device.messages() == ["installing edge-server 2.0.0"]
    device.installer.append(UpdateEvent.switched, record)
    device.follower.step()
    assert device.actions() == [(action, "running")], "installed, but not proven"
    device.installer.append(UpdateEvent.committed, record)
    assert device.follower.step() == 300
    assert device.actions() == [(action, "finished")] and device.messages()[0] == "2.0.0 is committed"
    device.follower.step()
    assert len(set(device.installer.ordered)) == 1


def test_a_rollback_is_reported_as_a_failure_with_its_reason(device: FollowingDevice, tmp_path: Path) -> None:
    action = device.order_update("3.0.0", tmp_path)
    device.follower.step()
    (record,) = device.installer.ordered
    device.installer.append(UpdateEvent.rolled_back, record, why="health checks failed: 60-shop: closed")
    device.follower.step()
    assert device.actions() == [(action, "failed")]
    assert device.messages()[0] == "rolled-back: health checks failed: 60-shop: closed"


def test_a_target_token_is_enough_for_a_server_at_which_devices_do_not_enrol(
    server: RunningServer, tmp_path: Path
) -> None:
    token = server.order("/devices/with-token/target-token", {})["token"]
    system = System(tmp_path / "root")
    fleet = FleetServer(f"{server.url}{BASE}/with-token", server.context(), f"TargetToken {token}")
    installer = RecordingInstaller(system)
    device = FollowingDevice(
        "with-token", server, Follower(system, fleet, installer, lambda: {"version": "1.0.0"}), installer
    )
    assert device.follower.step() == 300 and server.attributes("with-token") == {"version": "1.0.0"}
    action = device.order_update("2.1.0", tmp_path)
    device.follower.step()
    (record,) = installer.ordered
    assert record.action == str(action)
    # Root has the token too. The file gets its identity when RAUC has read the manifest.
    access, end = ServerToken(server.data / "tls/server-ca.crt", fleet.authorization), time.monotonic() + 600
    fetched = [
        download.download_bundle(
            system, BundleDownload(record.url, name, 2**24, end, token=access), lambda *_arguments: None
        )
        for name in ("address", "address")
    ]
    size = (tmp_path / "2.1.0.raucb").stat().st_size
    download.rename_download(system, "hash")
    again = BundleDownload(record.url, "hash", 2**24, end, token=access)
    assert [*fetched, download.download_bundle(system, again, lambda *_arguments: None)] == [size, 0, 0]
    assert download.download_path(system).read_bytes() == (tmp_path / "2.1.0.raucb").read_bytes()
    device.follower.server = replace(fleet, authorization="TargetToken wrong")
    device.follower.step()
    assert device.follower.failures == 1


@pytest.mark.parametrize("switched", [False, True])
def test_a_cancellation_is_obeyed_until_the_switch(device: FollowingDevice, tmp_path: Path, switched: bool) -> None:
    first = device.order_update(f"4.{switched:d}.0", tmp_path)
    device.follower.step()
    device.installer.switched = switched
    with device.server.people() as people:
        assert people.delete(f"/devices/{device.name}/actions/{first}").json()["state"] == "cancelling"
    device.follower.step()
    assert device.actions() == [(first, "running" if switched else "cancelled")]


@pytest.mark.parametrize("switching", [False, True])
def test_an_installation_that_root_has_begun_is_cancelled_until_root_switches(
    device: FollowingDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switching: bool
) -> None:
    monkeypatch.setattr(cancellation, "INTERVAL", 3600.0)  # root is this process, which must not be ended
    system, installer = device.follower.system, OrderedInstaller(device.follower.system)
    device.follower.installer = installer
    action = device.order_update(f"10.{switching:d}.0", tmp_path)
    device.follower.step()
    taken = take_order(system, device.server.url)
    assert taken is not None
    with CancellationWatch(system, taken.id) as watch:
        if switching:
            watch.begin_switch()
        with device.server.people() as people:
            people.delete(f"/devices/{device.name}/actions/{action}")
        device.follower.step()
        if switching:
            assert device.actions() == [(action, "running")] and not is_cancelled(system, taken.id)
            return
        assert device.actions() == [(action, "cancelling")] and is_cancelled(system, taken.id)
        with pytest.raises(OrderCancelled):
            watch.begin_switch()
    forget_taken_order(system)
    device.follower.step()
    assert device.actions() == [(action, "cancelled")] and not is_cancelled(system, taken.id)


def test_a_slot_that_waits_for_its_window_is_not_booted_after_a_cancellation(
    device: FollowingDevice, tmp_path: Path
) -> None:
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    closed = {"windows": f"{hour:02}:00-{hour:02}:01", "zone": "UTC"}
    action = device.order_update("11.0.0", tmp_path, maintenance=closed)
    device.follower.installer = OrderedInstaller(device.follower.system)
    device.follower.step()
    record = load_record(device.follower.system)
    assert record is not None and record.only_download
    outcome.store_outcome(device.follower.system, UpdateOutcome(record.order, True, (outcome.WRITTEN,)))
    device.follower.step()
    assert device.actions() == [(action, "running")]
    with device.server.people() as people:
        people.delete(f"/devices/{device.name}/actions/{action}")
    device.follower.step()
    assert device.actions() == [(action, "cancelled")]


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_update_that_must_be_confirmed_waits_for_that(
    device: FollowingDevice, tmp_path: Path, confirmed: bool
) -> None:
    system = device.follower.system
    with pytest.raises(Problem, match="no update waits"):
        confirmation.answer_question(system, confirmed=True)
    action = device.order_update(f"6.{confirmed:d}.0", tmp_path, confirm=True)
    for _ in range(2):
        device.follower.step()
        assert device.actions() == [(action, "waiting for confirmation")] and not device.installer.ordered
    assert confirmation.answer_question(system, confirmed=confirmed).version == f"6.{confirmed:d}.0"
    device.follower.step()
    device.follower.step()
    if confirmed:
        assert device.actions() == [(action, "running")] and len(device.installer.ordered) == 1
        assert device.messages()[-1] == "confirmed by the device"
    else:
        assert device.actions() == [(action, "waiting for confirmation")] and not device.installer.ordered
        assert device.messages()[-1] == "denied by the device"


def test_a_download_only_writes_the_slot_and_a_later_update_switches(device: FollowingDevice, tmp_path: Path) -> None:
    action = device.order_update("7.0.0", tmp_path, kind="download-only")
    device.follower.step()
    (record,) = device.installer.ordered
    assert record.only_download
    device.installer.append(UpdateEvent.installed, record)
    device.follower.step()
    assert device.actions() == [(action, "downloaded")]
    with device.server.people() as people:
        bundle = people.get("/bundles").json()[0]["id"]
    again = device.server.order(f"/devices/{device.name}/actions", {"bundle": bundle})["id"]
    device.follower.step()
    assert not device.installer.ordered[-1].only_download
    assert device.installer.ordered[-1].order != record.order
    device.installer.append(UpdateEvent.committed, device.installer.ordered[-1])
    device.follower.step()
    assert device.actions()[0] == (again, "finished")


def test_without_its_server_a_device_tries_again_later_and_loses_nothing(
    device: FollowingDevice, tmp_path: Path
) -> None:
    action = device.order_update("5.0.0", tmp_path)
    device.follower.step()
    (record,) = device.installer.ordered
    device.installer.append(UpdateEvent.committed, record)
    online = device.follower.server
    device.follower.server = replace(online, base=online.base.replace(device.server.url, "https://127.0.0.1:9"))
    pauses = [device.follower.step() for _ in range(12)]
    assert 2.5 <= pauses[0] <= 20 and all(300 <= pause <= 600 for pause in pauses[-3:])
    stored = load_record(device.follower.system)
    assert stored is not None and stored.stage is ActionStage.ordered
    device.follower.server = online
    assert device.follower.step() == 300
    assert device.actions() == [(action, "finished")]


def test_a_soft_update_waits_for_the_own_window_and_a_forced_one_does_not(
    device: FollowingDevice, tmp_path: Path
) -> None:
    device.follower.windows = parse_windows("Sat 02:00-04:00", UTC)
    device.follower.clock = datetime(2026, 12, 4, 12, tzinfo=UTC).timestamp
    action = device.order_update("8.0.0", tmp_path, kind="soft")
    assert device.follower.step() == device.follower.step() == 300
    assert device.installer.ordered == [] and device.actions() == [(action, "running")]
    assert len(device.messages()) == 1 and "waits for the device's own window" in device.messages()[0]
    device.follower.clock = datetime(2026, 12, 5, 2, tzinfo=UTC).timestamp
    device.follower.step()
    assert [record.action for record in device.installer.ordered] == [str(action)]
    device.follower.clock = datetime(2026, 12, 5, 4, tzinfo=UTC).timestamp
    device.follower.step()
    assert len(device.installer.ordered) == 2, "it has begun, so it goes on"
    device.installer.append(UpdateEvent.committed, device.installer.ordered[0])
    device.follower.step()
    forced = device.order_update("8.1.0", tmp_path)
    device.follower.step()
    assert device.installer.ordered[-1].action == str(forced)


@pytest.mark.sqlite
def test_before_a_window_of_the_server_the_slot_is_written_and_in_it_booted(
    device: FollowingDevice, tmp_path: Path
) -> None:
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    closed = {"windows": f"{hour:02}:00-{hour:02}:01", "zone": "UTC"}
    action = device.order_update("9.0.0", tmp_path, maintenance=closed)
    device.follower.step()
    (record,) = device.installer.ordered
    assert record.only_download and "until a maintenance window opens" in device.messages()[0]
    device.installer.append(UpdateEvent.installed, record)
    for _ in range(2):
        device.follower.step()
    assert device.actions() == [(action, "running")] and len(set(device.installer.ordered)) == 1
    with sqlite3.connect(device.server.data / "fleet.db", timeout=60) as database:
        opened = json.dumps({"windows": "00:00-24:00"})
        database.execute("UPDATE actions SET maintenance = ? WHERE id = ?", (opened, action))
    device.follower.step()
    assert not device.installer.ordered[-1].only_download and device.installer.ordered[-1].action == str(action)
    device.installer.append(UpdateEvent.committed, device.installer.ordered[-1])
    device.follower.step()
    assert device.actions() == [(action, "finished")]
