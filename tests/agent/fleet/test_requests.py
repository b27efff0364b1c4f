"""What root does about requests of operators: only those that are signed, for this device, of now, and only once."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet import request_files, request_record
from osbuild.agent.fleet.request_files import REQUEST_FILE, RESULT_FILE, StoredResult, offer_request
from osbuild.agent.fleet.request_handling import INTERRUPTED, RequestActions, RequestHandler, find_last_result
from osbuild.agent.fleet.request_record import FILE, RequestStage, load_requests
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.fleet.authorities import load_authority, load_server_certificate
from osbuild.shared.operator_requests import LARGEST_REQUEST, RequestKind
from tests.support.cuts import Cut
from tests.support.operator_requests import MINUTE, RequestIssuer

NODE = "shop-17"
ALL = tuple(RequestKind)


@dataclass
class RequestedDevice:
    """A device that records what it would do. `boot` is the number of the boot."""

    system: System
    issuer: RequestIssuer
    now: int
    requests: tuple[str, ...] = ALL
    done: list[str] = field(default_factory=list)
    boot: int = 0
    busy: bool = False
    slot: str = "a"
    fails: Exception | None = None
    text: str | None = None

    def start(self, slot: str = "a") -> None:
        """Boot, in a slot. What is in /run is lost."""
        self.boot, self.slot = self.boot + 1, slot
        for name in (REQUEST_FILE, RESULT_FILE):
            self.system.path(name).unlink(missing_ok=True)
        for name, text in (
            ("/proc/sys/kernel/random/boot_id", f"boot-{self.boot}\n"),
            ("/proc/cmdline", f"quiet edge.slot={slot}\n"),
        ):
            path = self.system.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        find_last_result(self.system, self.now)

    def start_next(self) -> None:
        """Boot the slot that is next."""
        self.start({"a": "b", "b": "a"}[self.slot] if "rollback" in self.done else self.slot)

    def act(self, name: str) -> None:
        record = load_requests(self.system)
        assert record is not None and record.last is not None, "it is recorded before anything is done"
        assert record.last.stage in (RequestStage.begun, RequestStage.rebooting)
        if self.fails:
            raise self.fails
        self.done.append(name)

    def collect(self) -> bytes:
        self.act("diagnostics")
        return b"archive"

    def roll_back(self) -> str | None:
        self.act("rollback")
        return self.text

    def wipe(self, announce: Callable[[], None]) -> None:
        self.act("wipe")
        announce()

    def handle(self) -> None:
        settings = FleetSettings(NODE, "https://updates.example.com", self.issuer.authority, requests=self.requests)
        actions = RequestActions(
            collect=self.collect, reboot=lambda: self.done.append("reboot"), roll_back=self.roll_back, wipe=self.wipe,
            is_busy=lambda: self.busy, clock=lambda: self.now,
        )  # fmt: skip
        RequestHandler(self.system, settings, actions, announcement=0.3).handle_offered()

    def offer(self, data: bytes) -> StoredResult | None:
        """Offer a request as the unprivileged part does, let root handle it, and return the result."""
        offer_request(self.system, data)
        self.handle()
        assert not self.system.path(REQUEST_FILE).exists(), "systemd would start root again"
        return self.result(data)

    def result(self, data: bytes) -> StoredResult | None:
        return request_files.load_result(self.system, request_files.digest_request(data))

    def request(self, kind: RequestKind, minutes: int = 60) -> bytes:
        return self.issuer.issue(NODE, kind, self.now, minutes)


@dataclass
class PowerCutWriter:
    """Writes files; the power fails before the write number `cut / 2`, or after it if `cut` is odd."""

    write_file: Callable[..., None]
    cut: int
    writes: int = 0

    def write(self, *arguments: object) -> None:
        number, self.writes = self.writes, self.writes + 1
        if number * 2 == self.cut:
            raise Cut
        self.write_file(*arguments)
        if number * 2 + 1 == self.cut:
            raise Cut


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> RequestIssuer:
    return RequestIssuer(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def device(issuer: RequestIssuer, tmp_path: Path) -> Iterator[RequestedDevice]:
    (tmp_path / "run").mkdir()
    device = RequestedDevice(System(tmp_path), issuer, time.time_ns() // 1_000_000)
    device.start()
    yield device
    assert list((tmp_path / "run").glob("edge-request-*")) == [], "nothing is left of the check of a signature"


def rejected(result: StoredResult | None) -> str:
    assert result is not None and result.stage is RequestStage.rejected, result
    return " ".join(result.details)


def test_diagnostics_are_collected_once_for_the_unprivileged_part(device: RequestedDevice) -> None:
    data = device.request(RequestKind.diagnostics)
    result = device.offer(data)
    assert result is not None and (result.stage, result.archive) == (RequestStage.succeeded, True)
    assert request_files.load_archive(device.system) == b"archive"
    assert device.offer(data) == result, "the same request again changes nothing"
    assert device.done == ["diagnostics"]


def test_a_reboot_has_succeeded_after_the_next_start(device: RequestedDevice) -> None:
    data = device.request(RequestKind.reboot)
    assert device.offer(data) is None and device.offer(data) is None
    device.now += 5 * MINUTE
    device.start()
    result = device.result(data)
    assert result == StoredResult(result.digest if result else "", RequestStage.succeeded, (
        "the device has restarted, in slot a",
    ))  # fmt: skip
    assert device.offer(data) == result, "a replay after the reboot"
    device.start()
    assert device.result(data) == result, "the report was not sent yet"
    assert device.done == ["reboot"]


@pytest.mark.parametrize(("slot", "stage"), [("b", RequestStage.succeeded), ("a", RequestStage.failed)])
def test_a_rollback_has_succeeded_if_the_other_slot_runs(device: RequestedDevice, slot: str, stage: str) -> None:
    data = device.request(RequestKind.rollback)
    assert device.offer(data) is None
    assert device.done == ["rollback", "reboot"]
    device.start(slot)
    result = device.result(data)
    assert result is not None and result.stage == stage


def test_a_rollback_that_only_withdraws_or_fails_says_so(device: RequestedDevice) -> None:
    device.text = "withdrawn"
    result = device.offer(device.request(RequestKind.rollback))
    assert result is not None and (result.stage, result.details) == (RequestStage.succeeded, ("withdrawn",))
    device.fails = Problem("slot b is marked as bad", hint="install an image there")
    result = device.offer(device.request(RequestKind.rollback))
    assert result is not None and result.stage is RequestStage.failed
    assert result.details == ("slot b is marked as bad", "install an image there")
    assert device.done == ["rollback"]


def test_a_wipe_waits_for_its_report_but_not_for_ever(device: RequestedDevice) -> None:
    data = device.request(RequestKind.wipe)
    result = device.offer(data)
    assert result is not None and result.stage is RequestStage.succeeded
    request_files.mark_reported(device.system, request_files.digest_request(data))
    assert request_files.is_reported(device.system, request_files.digest_request(data))
    assert device.done == ["wipe"]


def test_a_new_key_is_only_permitted_by_root(device: RequestedDevice) -> None:
    result = device.offer(device.request(RequestKind.rotate))
    assert result is not None and result.stage is RequestStage.granted and device.done == []


def test_what_is_not_signed_for_requests_is_rejected(device: RequestedDevice, tmp_path: Path) -> None:
    folder = device.issuer.folder
    other = RequestIssuer(tmp_path / "other")
    other.folder.mkdir()
    genuine = device.request(RequestKind.reboot)
    document = genuine.replace(b"\n", b"")
    assert "not valid" in rejected(device.offer(other.issue(NODE, RequestKind.reboot, device.now)))
    assert "not valid" in rejected(device.offer(b"{}")) and "not valid" in rejected(device.offer(b""))
    assert "not valid" in rejected(device.offer(document[:-60] + document[-56:]))
    # The server's own certificate for TLS, of the same authority.
    certificate, key = load_server_certificate(folder, load_authority(folder, "server-ca"), ["localhost"])
    (tmp_path / "content").write_bytes(b"{}")
    command: list[str | Path] = [
        "openssl", "cms", "-sign", "-binary", "-nodetach", "-in", tmp_path / "content", "-signer", certificate,
        "-inkey", key, "-outform", "PEM",
    ]  # fmt: skip
    signed = subprocess.run(command, capture_output=True, check=True).stdout
    assert "not one for requests" in rejected(device.offer(signed))
    assert device.done == []
    record = load_requests(device.system)
    assert record is not None and record.requests == (), "what is not authentic does not fill the record"


def test_requests_for_others_of_another_time_or_not_allowed_are_rejected(device: RequestedDevice) -> None:
    issue, now = device.issuer.issue, device.now
    assert "another device: 'shop-18'" in rejected(device.offer(issue("shop-18", RequestKind.reboot, now)))
    assert "has expired" in rejected(device.offer(issue(NODE, RequestKind.reboot, now - 61 * MINUTE)))
    assert "longer than a day" in rejected(device.offer(issue(NODE, RequestKind.reboot, now, 24 * 60 + 1)))
    assert "older than this device's record" in rejected(device.offer(issue(NODE, RequestKind.reboot, now - MINUTE)))
    assert "not valid yet" in rejected(device.offer(issue(NODE, RequestKind.reboot, now + 6 * MINUTE)))
    device.requests = ("diagnostics",)
    refused = device.request(RequestKind.reboot)
    assert "does not allow `reboot`" in rejected(device.offer(refused))
    device.requests, device.busy = ALL, True
    assert "an update is being installed" in rejected(device.offer(device.request(RequestKind.reboot)))
    device.busy = False
    assert "does not allow" in rejected(device.offer(refused)), "also when the profile allows it later"
    assert device.done == []


def test_a_clock_that_is_a_little_late_is_accepted(device: RequestedDevice) -> None:
    result = device.offer(device.issuer.issue(NODE, RequestKind.diagnostics, device.now + 4 * MINUTE))
    assert result is not None and result.stage is RequestStage.succeeded


def test_a_clock_that_is_set_back_does_not_revive_a_request(device: RequestedDevice) -> None:
    data = device.request(RequestKind.reboot, minutes=1)
    device.offer(data)
    device.start()
    begin, device.now = device.now, device.now + 2 * MINUTE
    device.offer(device.request(RequestKind.diagnostics))  # the expired request is forgotten
    record = load_requests(device.system)
    assert record is not None and len(record.requests) == 1
    device.now = begin
    assert "has expired" in rejected(device.offer(data))
    assert device.done == ["reboot", "diagnostics"]


@pytest.mark.parametrize("damage", ["", "{", "\0" * 50, '{"since": "x"}', '{"since": 1, "requests": [7]}', None])
def test_without_its_record_a_device_accepts_only_newer_requests(device: RequestedDevice, damage: str | None) -> None:
    data = device.request(RequestKind.diagnostics)
    device.offer(data)
    path = device.system.path(FILE)
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    device.now += 1000
    device.start()
    assert "older than" in rejected(device.offer(data))
    result = device.offer(device.request(RequestKind.diagnostics))
    assert result is not None and result.stage is RequestStage.succeeded
    assert device.done == ["diagnostics"] * 2


@pytest.mark.parametrize("kind", [RequestKind.diagnostics, RequestKind.reboot, RequestKind.rollback])
def test_a_power_cut_at_any_write_repeats_nothing(
    device: RequestedDevice, monkeypatch: pytest.MonkeyPatch, kind: RequestKind
) -> None:
    """The request is offered again after each cut: it is done at most once, and its end is known."""
    results = set()
    for cut in range(6):
        device.done.clear()
        data = device.request(kind)
        offer_request(device.system, data)
        with monkeypatch.context() as patch:
            for module in (request_record, request_files):
                patch.setattr(module, "write_file", PowerCutWriter(module.write_file, cut).write)
            with suppress(Cut):
                device.handle()
        device.start_next()
        before = list(device.done)
        result = device.result(data) or device.offer(data)
        if result is None:  # it was not recorded, and begins now
            device.start_next()
            result = device.result(data)
        assert result is not None and result.stage in (RequestStage.succeeded, RequestStage.failed)
        assert len([name for name in device.done if name == kind]) <= 1
        assert before == device.done or before == [], "what had begun is not done again"
        results.add(result.stage)
        device.offer(data)
        assert len([name for name in device.done if name == kind]) <= 1
    assert RequestStage.succeeded in results


def test_a_kill_without_a_reboot_is_reported(device: RequestedDevice) -> None:
    data, device.fails = device.request(RequestKind.diagnostics), KeyboardInterrupt()  # type: ignore[assignment]
    offer_request(device.system, data)
    with pytest.raises(KeyboardInterrupt):
        device.handle()
    device.fails = None
    result = device.offer(data)
    assert result is not None and (result.stage, result.details) == (RequestStage.failed, (INTERRUPTED,))
    assert device.done == []


def test_the_unprivileged_part_gains_nothing_with_links_pipes_folders_and_huge_files(
    device: RequestedDevice, tmp_path: Path
) -> None:
    path, secret = device.system.path(REQUEST_FILE), tmp_path / "secret"
    secret.write_bytes(device.request(RequestKind.reboot))
    path.parent.mkdir(parents=True)

    def folder() -> None:
        (path / "a/b").mkdir(parents=True)
        (path / "link").symlink_to(tmp_path)

    def huge() -> None:
        with path.open("wb") as file:
            file.write(secret.read_bytes())
            file.truncate(LARGEST_REQUEST + 1)

    makers: tuple[Callable[[], None], ...] = (
        lambda: path.symlink_to(secret), lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("gone"),
        lambda: os.mkfifo(path), folder, huge,
    )  # fmt: skip
    for make in makers:
        make()
        device.handle()
        assert not os.path.lexists(path)
        assert "not valid" in rejected(device.result(b""))
    assert device.done == [] and secret.exists()
    os.mkfifo(device.system.path(request_files.REPORTED_FILE))
    assert not request_files.is_reported(device.system, "0" * 64)


def test_a_huge_archive_is_not_stored(device: RequestedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "collect", lambda: bytes(5 * 2**20))
    result = device.offer(device.request(RequestKind.diagnostics))
    assert result is not None and result.stage is RequestStage.failed
    assert not device.system.path(request_files.ARCHIVE_FILE).exists()


def test_requests_have_ids_of_their_own(device: RequestedDevice) -> None:
    first, second = device.request(RequestKind.diagnostics), device.request(RequestKind.diagnostics)
    assert device.offer(first) and device.offer(second)
    assert device.done == ["diagnostics"] * 2
    record = load_requests(device.system)
    assert record is not None
    assert replace(record.requests[0], id="", digest="") == replace(record.requests[1], id="", digest="")
