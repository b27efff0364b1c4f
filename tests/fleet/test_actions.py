"""What happens to an action when its device reports something."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from osbuild.fleet import actions
from osbuild.fleet.actions import Assignment, DeviceReport
from osbuild.fleet.bundles import NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.devices import find_device, register_device
from osbuild.fleet.states import ActionKind, ActionState, Execution, Finished
from tests.support.refusals import refused

T = TypeVar("T")
SUCCESS = DeviceReport(Execution.closed, Finished.success)
FAILURE = DeviceReport(Execution.closed, Finished.failure, messages=("the new version was not healthy",))
PROGRESS = DeviceReport(Execution.proceeding, Finished.none)


class Fleet:
    """One device and two bundles in a database."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.now = 0
        self.device = self.change(lambda connection: register_device(connection, "device-1", 0)).id
        self.bundles = [
            self.change(lambda connection, version=version: add_bundle(  # type: ignore[misc]
                connection, NewBundle("os", version, "edge", f"{version}.raucb"), StoredFile(1, version, "1", "1"), 0
            )).id
            for version in ("1.0", "2.0")
        ]  # fmt: skip

    def change(self, work: Callable[[Connection], T]) -> T:
        return self.database.begin_change(work).result()

    def assign(self, bundle: int = 0, **options: object) -> int:
        self.now += 1
        assignment = replace(Assignment(self.bundles[bundle]), **options)  # type: ignore[arg-type]
        return self.change(lambda c: actions.assign_bundle(c, self.device, assignment, self.now))

    def report(self, action: int, report: DeviceReport) -> ActionState:
        return self.change(lambda c: actions.report_update(c, self.device, action, report, self.now))

    def answer(self, action: int, report: DeviceReport) -> ActionState:
        return self.change(lambda c: actions.report_cancelling(c, self.device, action, report, self.now))

    def states(self) -> list[tuple[int, ActionState]]:
        """The active actions, in the order in which the device is told."""
        active = self.database.read(lambda c: actions.active_actions(c, self.device))
        return [(action.id, action.state) for action in active]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "fleet.db")
    yield fleet
    fleet.database.close()


@pytest.mark.parametrize(("report", "state"), [
    (SUCCESS, ActionState.finished),
    (DeviceReport(Execution.closed, Finished.none), ActionState.finished),
    (FAILURE, ActionState.failed),
    (PROGRESS, ActionState.running),
    (DeviceReport(Execution.rejected, Finished.failure), ActionState.running),
    (DeviceReport(Execution.canceled, Finished.failure), ActionState.running),
    (DeviceReport(Execution.downloaded, Finished.none), ActionState.running),
])  # fmt: skip
def test_only_a_closed_report_ends_an_action(fleet: Fleet, report: DeviceReport, state: ActionState) -> None:
    action = fleet.assign()
    assert fleet.report(action, report) is state
    assert fleet.states() == ([(action, state)] if state is ActionState.running else [])


def test_a_download_ends_an_action_that_is_only_a_download(fleet: Fleet) -> None:
    action = fleet.assign(kind=ActionKind.download_only)
    assert fleet.report(action, DeviceReport(Execution.downloaded, Finished.none)) is ActionState.downloaded
    assert fleet.states() == []


def test_reports_about_actions_that_have_ended_wait_or_belong_to_others_are_refused(fleet: Fleet) -> None:
    action = fleet.assign()
    fleet.report(action, SUCCESS)
    assert refused(lambda: fleet.report(action, SUCCESS)) == 410
    assert refused(lambda: fleet.report(action + 1, SUCCESS)) == 404
    assert refused(lambda: fleet.report(fleet.assign(confirm=True), SUCCESS)) == 404
    fleet.device = fleet.change(lambda connection: register_device(connection, "device-2", 0)).id
    assert refused(lambda: fleet.report(action, SUCCESS)) == 404


def test_a_new_action_cancels_the_older_one_first(fleet: Fleet) -> None:
    old = fleet.assign()
    new = fleet.assign(1, weight=1001)
    assert fleet.states() == [(old, ActionState.cancelling), (new, ActionState.running)]
    assert fleet.answer(old, SUCCESS) is ActionState.cancelled
    assert fleet.states() == [(new, ActionState.running)]


def test_an_action_that_waits_for_its_confirmation_is_cancelled_at_once(fleet: Fleet) -> None:
    fleet.assign(confirm=True)
    new = fleet.assign(1)
    assert fleet.states() == [(new, ActionState.running)]


def test_a_device_may_refuse_a_cancellation_or_be_faster(fleet: Fleet) -> None:
    old = fleet.assign()
    fleet.assign(1)
    assert fleet.answer(old, PROGRESS) is ActionState.cancelling
    assert fleet.answer(old, DeviceReport(Execution.rejected, Finished.none)) is ActionState.running
    assert refused(lambda: fleet.answer(old, SUCCESS)) == 405
    third = fleet.assign(1)
    assert fleet.report(old, SUCCESS) is ActionState.finished
    device = fleet.database.read(lambda connection: find_device(connection, "device-1"))
    assert device is not None and device.installed_action == old
    assert third in dict(fleet.states())


def test_too_many_reports_are_refused_but_never_the_last_one(fleet: Fleet) -> None:
    action = fleet.assign()
    for _ in range(actions.MOST_REPORTS):
        fleet.report(action, PROGRESS)
    assert refused(lambda: fleet.report(action, PROGRESS)) == 429
    assert refused(lambda: fleet.report(action, replace(PROGRESS, messages=("line",) * 51))) == 429
    assert fleet.report(action, FAILURE) is ActionState.failed


def test_too_many_denials_are_refused_but_never_the_confirmation(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MOST_REPORTS", 3)
    action = fleet.assign(confirm=True)

    def answer(report: DeviceReport) -> ActionState:
        return fleet.change(lambda c: actions.confirm_action(c, fleet.device, action, report, fleet.now))

    denial = DeviceReport(Execution.rejected, Finished.none)
    assert [answer(denial) for _ in range(3)] == [ActionState.waiting] * 3
    assert refused(lambda: answer(denial)) == 429
    assert fleet.database.read(lambda connection: actions.count_reports(connection, action)) == 3
    assert refused(lambda: answer(replace(PROGRESS, messages=("line",) * 51))) == 429
    assert answer(PROGRESS) is ActionState.running


def test_a_device_says_only_so_often_in_a_day_what_it_has_otherwise_installed(fleet: Fleet) -> None:
    def install(version: str) -> bool:
        device = fleet.database.read(lambda connection: find_device(connection, "device-1"))
        assert device is not None
        return fleet.change(lambda c: actions.record_installed(c, device, ("os", version), fleet.now))

    def update(bundle: int) -> None:
        action = fleet.assign(bundle)
        fleet.now += 1
        fleet.report(action, SUCCESS)

    update(0)
    versions = itertools.cycle(("2.0", "1.0"))
    assert [install(next(versions)) for _ in range(actions.MOST_INSTALLED)] == [True] * actions.MOST_INSTALLED
    assert refused(lambda: install("2.0")) == 429
    assert install("1.0") is False, "what is no news is no row"
    update(1)
    fleet.now += actions.DAY - 3
    assert refused(lambda: install("1.0")) == 429
    fleet.now += 1
    assert install("1.0") is True


def test_the_history_has_the_newest_messages_first_and_no_endless_ones(fleet: Fleet) -> None:
    action = fleet.assign()
    fleet.report(action, replace(PROGRESS, messages=("one", "two")))
    fleet.report(action, replace(PROGRESS, messages=("3" * 1000,)))
    history = fleet.database.read(lambda connection: actions.read_history(connection, action, 2))
    assert history == ["3" * 512, "two"]
