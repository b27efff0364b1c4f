"""Requests of operators in the database: one after the other, answered once, and expired in time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from osbuild.fleet import requests
from osbuild.fleet.audit import Origin, read_audit
from osbuild.fleet.database import Database
from osbuild.fleet.decommission import end_device, end_silent_wipes
from osbuild.fleet.devices import find_device, record_contacts, register_device
from osbuild.fleet.requests import FleetRequest, SignedRequest
from osbuild.fleet.states import RequestState
from osbuild.shared.operator_requests import RequestKind, RequestResult
from tests.support.refusals import refused

T = TypeVar("T")
HOUR = 3_600_000


class RequestedFleet:
    """Two devices in a database."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.device = self.change(lambda c: register_device(c, "device-1", 0)).id
        self.other = self.change(lambda c: register_device(c, "device-2", 0)).id

    def change(self, work: Callable[[Connection], T]) -> T:
        return self.database.begin_change(work).result()

    def create(self, kind: RequestKind = RequestKind.diagnostics, expires: int = HOUR) -> int:
        order = SignedRequest(kind, "ann", "document", 0, expires)
        return self.change(lambda c: requests.create_request(c, self.device, order)).id

    def read(self, number: int) -> FleetRequest:
        return self.database.read(lambda c: requests.read_request(c, number))

    def deliver(self, number: int, now: int = 0) -> FleetRequest:
        return self.change(lambda c: requests.deliver_request(c, self.device, number, now))

    def answer(self, number: int, result: RequestResult = RequestResult.succeeded, lines: tuple[str, ...] = ()) -> None:
        self.change(lambda c: requests.answer_request(c, requests.read_request(c, number), result, lines, 5))

    def store(self, number: int, content: bytes, now: int = 0) -> None:
        self.change(lambda c: requests.store_archive(c, requests.read_request(c, number), content, now))

    def archive(self, number: int) -> bytes:
        return self.database.read(lambda c: requests.read_archive(c, number))

    def expire(self, now: int) -> None:
        self.change(lambda c: end_silent_wipes(c, now))
        self.change(lambda c: requests.expire_requests(c, now))

    def see(self, now: int) -> None:
        self.change(lambda c: record_contacts(c, {self.device: (now, "192.0.2.7")}))

    @property
    def decommissioned(self) -> int | None:
        device = self.database.read(lambda c: find_device(c, "device-1"))
        assert device is not None
        return device.decommissioned

    @property
    def offered(self) -> int | None:
        device = self.database.read(lambda c: find_device(c, "device-1"))
        assert device is not None
        return device.open_request


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RequestedFleet]:
    fleet = RequestedFleet(tmp_path / "fleet.db")
    yield fleet
    fleet.database.close()


def test_requests_are_offered_one_after_the_other(fleet: RequestedFleet) -> None:
    first, second = fleet.create(), fleet.create(RequestKind.reboot)
    assert fleet.offered == first
    assert fleet.deliver(first).document == "document" and fleet.deliver(first).id == first
    assert fleet.read(first).state is RequestState.delivered and fleet.offered == first
    fleet.answer(first, RequestResult.rejected, ("not allowed", "x" * 1000))
    assert fleet.read(first).state is RequestState.rejected and fleet.read(first).ended == 5
    assert fleet.read(first).details == ("not allowed", "x" * 512)
    assert fleet.offered == second
    fleet.deliver(second)
    fleet.answer(second)
    assert fleet.offered is None


def test_only_a_delivered_request_is_answered_and_only_once(fleet: RequestedFleet) -> None:
    number = fleet.create()
    assert refused(lambda: fleet.answer(number)) == 410
    assert refused(lambda: fleet.store(number, b"archive")) == 410
    fleet.deliver(number)
    fleet.answer(number)
    assert refused(lambda: fleet.answer(number, RequestResult.failed)) == 410
    assert refused(lambda: fleet.deliver(number)) == 410
    assert fleet.read(number).state is RequestState.succeeded
    fleet.device = fleet.other
    assert refused(lambda: fleet.deliver(number)) == 404, "another device"


def test_requests_expire_if_they_are_not_asked_for_or_not_answered(fleet: RequestedFleet) -> None:
    silent, late = fleet.create(expires=HOUR), fleet.create(expires=2 * HOUR)
    fleet.deliver(silent)
    fleet.expire(2 * HOUR - 1)
    assert fleet.read(silent).state is RequestState.delivered, "it may still reboot"
    fleet.expire(2 * HOUR)
    assert fleet.read(silent).state is RequestState.expired
    assert fleet.read(silent).details == ("the device has not said how it has ended",)
    assert fleet.read(late).details == ("the device has not asked for it in time",)
    assert fleet.offered is None
    assert refused(lambda: fleet.deliver(fleet.create(expires=10), now=10)) == 410


def test_too_many_requests_at_once_are_refused(fleet: RequestedFleet) -> None:
    for _ in range(requests.MOST_OPEN):
        fleet.create()
    assert refused(fleet.create) == 409


def test_diagnostics_are_kept_for_a_while_and_not_too_many(fleet: RequestedFleet) -> None:
    numbers = []
    for _ in range(requests.MOST_ARCHIVES + 1):
        numbers.append(fleet.create())
        fleet.deliver(numbers[-1])
        fleet.store(numbers[-1], b"half")
        fleet.store(numbers[-1], b"archive %d" % numbers[-1], now=numbers[-1])
        fleet.answer(numbers[-1])
    assert refused(lambda: fleet.archive(numbers[0])) == 404
    assert [fleet.archive(number) for number in numbers[1:]] == [b"archive %d" % number for number in numbers[1:]]
    assert fleet.database.read(lambda c: requests.with_archives(c, numbers)) == frozenset(numbers[1:])
    fleet.expire(requests.ARCHIVE_AGE + numbers[-1] - 1)
    assert fleet.database.read(lambda c: requests.with_archives(c, numbers)) == {numbers[-1]}
    reboot = fleet.create(RequestKind.reboot)
    fleet.deliver(reboot)
    assert refused(lambda: fleet.store(reboot, b"archive")) == 410


def test_a_decommissioned_device_has_no_open_requests(fleet: RequestedFleet) -> None:
    number = fleet.create()
    device = fleet.database.read(lambda c: find_device(c, "device-1"))
    assert device is not None
    fleet.change(lambda c: end_device(c, device, Origin("", "", 7)))
    assert fleet.read(number).details == ("the device is decommissioned",) and fleet.offered is None


def test_a_device_that_is_silent_since_it_got_a_wipe_is_decommissioned(fleet: RequestedFleet) -> None:
    number = fleet.create(RequestKind.wipe)
    fleet.deliver(number)
    fleet.see(5)
    fleet.expire(2 * HOUR - 1)
    assert fleet.decommissioned is None and fleet.read(number).state is RequestState.delivered
    fleet.expire(2 * HOUR)
    assert fleet.decommissioned == 2 * HOUR
    assert fleet.read(number).details == ("the device is decommissioned",)
    (entry,) = fleet.database.read(lambda c: read_audit(c, None, 10))
    assert (entry.event, entry.subject, entry.details["request"]) == ("device decommissioned", "device-1", number)


@pytest.mark.parametrize(("kind", "delivered", "seen"), [
    (RequestKind.wipe, False, 5),  # it never got the request
    (RequestKind.wipe, True, HOUR + 1),  # it still polls
    (RequestKind.reboot, True, 5),
])  # fmt: skip
def test_other_silent_devices_stay_in_use(fleet: RequestedFleet, kind: RequestKind, delivered: bool, seen: int) -> None:
    number = fleet.create(kind)
    if delivered:
        fleet.deliver(number)
    fleet.see(seen)
    fleet.expire(2 * HOUR)
    assert fleet.decommissioned is None and fleet.read(number).state is RequestState.expired
