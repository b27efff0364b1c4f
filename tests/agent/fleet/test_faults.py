"""A fault at every request and at every write of a device: no step is lost, and none is done twice.

A real server, and all of the agent but RAUC: what it would write is replaced by the records that it makes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from osbuild.agent.fleet import action_record, confirmation, order, outcome, request_files, request_record
from osbuild.agent.fleet.action_record import load_record
from osbuild.agent.fleet.connection import FleetServer, ServerAnswer, ServerUnreachable
from osbuild.agent.fleet.follower import Follower
from osbuild.agent.fleet.order import OrderedInstaller, forget_taken_order, take_order
from osbuild.agent.fleet.outcome import find_outcome, load_outcome, order_reference, store_outcome
from osbuild.agent.http import TlsFiles
from osbuild.agent.system import System
from osbuild.agent.update import history
from osbuild.agent.update.history import UpdateEvent
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.keys.key_folder import load_keys
from osbuild.shared.files import write_file
from tests.support.cuts import Cut, Power
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server

MOST_STEPS = 40
WRITERS = (action_record, confirmation, order, outcome, request_files, request_record)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        make_bundle(server.data / "one.raucb", load_keys(server.data.parent / "keys"), "2.0.0")
        yield server


@dataclass
class Faults:
    """Which request fails: number `request` (from 0), before it is sent or, if `answered`, when its answer is lost."""

    request: int | None = None
    answered: bool = False
    sent: int = 0
    power: Power = field(default_factory=Power)
    statuses: list[tuple[str, int]] = field(default_factory=list)

    def pass_request(self, address: str, send: Callable[[], ServerAnswer]) -> ServerAnswer:
        number, self.sent = self.sent, self.sent + 1
        if number == self.request and not self.answered:
            raise ServerUnreachable("cut before the request")
        answer = send()
        self.statuses.append((address, answer.status))
        if number == self.request:
            raise ServerUnreachable("cut before the answer")
        return answer

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        self.power.tick()
        write_file(path, data, mode)
        self.power.tick()


@dataclass(frozen=True)
class FaultyServer(FleetServer):
    """A server that is cut off at a request."""

    faults: Faults = field(default_factory=Faults)

    def _send(self, method: str, address: str, body: bytes | None, kind: str = "application/json") -> ServerAnswer:
        return self.faults.pass_request(address, lambda: super(FaultyServer, self)._send(method, address, body, kind))


class BootingDevice:
    """A device whose processes are started again after a fault, and which boots the slot that it has written."""

    def __init__(self, server: RunningServer, folder: Path, name: str, faults: Faults) -> None:
        server.enrol(name, create_token(server), folder).close()
        self.server, self.name, self.faults, self.system = server, name, faults, System(folder / "root")
        files = TlsFiles(server.data / "tls/server-ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
        self.fleet = FaultyServer(f"{server.url}{BASE}/{name}", files.make_context(), faults=faults)
        self.described, self.installed = "", list[str]()

    def follow(self) -> None:
        """Make one poll, in a new process."""
        follower = Follower(
            self.system, self.fleet, OrderedInstaller(self.system), lambda: {"version": "1.0.0"},
            described=self.described,
        )  # fmt: skip
        follower.step()
        self.described = follower.described

    def install(self) -> None:
        """Do what root does with an order, up to the reboot."""
        try:
            taken = take_order(self.system, self.server.url)
            if taken is None or load_outcome(self.system, taken.id) or self.events(taken.id):
                return
            for event in (UpdateEvent.started, UpdateEvent.switched):
                self.append(event, taken.id)
            self.installed.append(taken.id)
        finally:
            if not self.faults.power.off:
                forget_taken_order(self.system)

    def boot(self, *, healthy: bool) -> None:
        """Boot: what is below /run is lost. A slot that was switched to is committed, or rolled back."""
        for path in self.system.path("/run").rglob("*"):
            if path.is_file():
                path.unlink()
        record = load_record(self.system)
        if record is None:
            return
        if self.events(record.order)[-1:] == [UpdateEvent.switched]:
            self.append(UpdateEvent.committed if healthy else UpdateEvent.rolled_back, record.order)
        found = find_outcome(self.system, record.order)
        if found:
            store_outcome(self.system, found)

    def events(self, number: str) -> list[str]:
        rows = history.read_history(self.system)
        return [row["event"] for row in rows if row.get("reference") == order_reference(number)]

    def append(self, event: UpdateEvent, number: str) -> None:
        update = PendingUpdate(
            f"id-{number}", UpdateKind.update, UpdateStage.writing, "a", "b", {"version": "1.0.0"},
            {"version": "2.0.0"}, "", "hash", reference=order_reference(number),
        )  # fmt: skip
        history.append_event(self.system, event, update)

    def run(self, action: int, end: str, *, healthy: bool = True) -> None:
        """Run until the server knows the end of an action. Each cut ends all processes, and a boot follows."""
        for _ in range(MOST_STEPS):
            try:
                self.follow()
                if confirmation.load_question(self.system):
                    confirmation.answer_question(self.system, confirmed=True)
                if end != "cancelled":
                    self.install()
                    self.boot_next(healthy=healthy)
            except Cut:
                self.faults.power.restore()
                self.boot(healthy=healthy)
            if self.server.actions(self.name)[0] == (action, end) and self.is_reported():
                return
        raise AssertionError(f"after {MOST_STEPS} polls: {self.server.actions(self.name)}, {self.faults.statuses}")

    def boot_next(self, *, healthy: bool) -> None:
        """Boot if a slot was switched to."""
        record = load_record(self.system)
        if record is not None and self.events(record.order)[-1:] == [UpdateEvent.switched]:
            self.boot(healthy=healthy)

    def is_reported(self) -> bool:
        record = load_record(self.system)
        return record is None or record.stage is action_record.ActionStage.reported


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults()
    for module in WRITERS:
        monkeypatch.setattr(module, "write_file", faults.write)
    return faults


@dataclass(frozen=True)
class Scenario:
    """What a server orders, how it ends, and how many requests and points of a power cut it has at least."""

    end: str
    requests: int
    cuts: int
    confirm: bool = False

    def play(self, server: RunningServer, folder: Path, faults: Faults) -> None:
        """Have one update ordered, with faults. It must be done and reported exactly once."""
        folder.mkdir()
        name = f"{self.end}-{self.confirm:d}-{folder.name}"
        device = BootingDevice(server, folder, name, faults)
        action = server.order_update(name, server.data / "one.raucb", confirm=self.confirm)
        if self.end == "cancelled":
            try:
                device.follow()
            except Cut:
                faults.power.restore()
                device.boot(healthy=True)
            with server.people() as people:
                assert people.delete(f"/devices/{name}/actions/{action}").status_code == 200
        device.run(action, self.end, healthy=self.end == "finished")
        assert len(device.installed) == (self.end != "cancelled") and server.actions(name) == [(action, self.end)]
        messages = server.messages(name)
        for text, expected in (
            ("2.0.0 is committed", self.end == "finished"), ("rolled-back", self.end == "failed"),
            ("confirmed by the device", self.confirm), ("cancelled", self.end == "cancelled"),
        ):  # fmt: skip
            assert sum(line.startswith(text) for line in messages) == expected, messages


SCENARIOS = [
    Scenario("finished", 9, 12, confirm=True), Scenario("failed", 6, 8), Scenario("cancelled", 6, 6),
]  # fmt: skip
IDS = [scenario.end for scenario in SCENARIOS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_a_fault_at_every_request_loses_and_repeats_no_step(
    server: RunningServer, tmp_path: Path, faults: Faults, scenario: Scenario
) -> None:
    scenario.play(server, tmp_path / "without", faults)
    requests = faults.sent
    assert requests >= scenario.requests, faults.statuses
    for number in range(requests):
        for answered in (False, True):
            faults.request, faults.answered, faults.sent = number, answered, 0
            scenario.play(server, tmp_path / f"request-{number}-{answered:d}", faults)
            assert faults.sent > number, "the fault has happened"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_a_power_cut_at_every_write_loses_and_repeats_no_step(
    server: RunningServer, tmp_path: Path, faults: Faults, scenario: Scenario
) -> None:
    for left in range(100):
        faults.power.restore(left)
        scenario.play(server, tmp_path / f"write-{left}", faults)
        if faults.power.left is not None:  # no write was left to cut
            assert left >= scenario.cuts, "before and after each write"
            return
    raise AssertionError("more than 100 writes")


def test_a_full_disk_is_a_failure_of_the_device_and_the_next_start_goes_on(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    device = BootingDevice(server, tmp_path, "full-disk", faults)
    action = server.order_update("full-disk", server.data / "one.raucb")

    def refuse(path: Path, data: bytes, mode: int = 0o644) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(action_record, "write_file", refuse)
        with pytest.raises(OSError, match="No space"):
            device.follow()
    assert server.messages("full-disk") == [] and load_record(device.system) is None
    device.run(action, "finished")
    assert len(device.installed) == 1
