"""Rollouts against a simple model, whatever devices and operators do, in any order."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection

from osbuild.fleet import actions
from osbuild.fleet.actions import Assignment, DeviceReport, UpdateAction
from osbuild.fleet.bundles import NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.devices import register_device
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout import rows, transitions
from osbuild.fleet.rollout.grouping import split_devices
from osbuild.fleet.rollout.judgement import GroupCounts
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.rollout.rows import Rollout
from osbuild.fleet.states import (
    ROLLOUT_ENDED,
    ActionState,
    Execution,
    Finished,
    GroupState,
    MemberStanding,
    RolloutState,
)

T = TypeVar("T")
SUCCESS = DeviceReport(Execution.closed, Finished.success)
FAILURE = DeviceReport(Execution.closed, Finished.failure)
DEVICES, PAUSE, DEADLINE = 6, 60, 150
START, WINDOWS_END = 90_000, 600_000
SUCCEEDED = (ActionState.finished, ActionState.downloaded)


class RolloutMachine(RuleBasedStateMachine):
    """Six devices in three groups. The model: the newest action of each device, and what was forgiven at a resume."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(Path(self.folder.name) / "fleet.db")
        self.now = 0
        self.forgiven: set[int] = (
            set()
        )  # actions that had failed, or were overdue, when an operator resumed the rollout
        self.refused: set[int] = set()  # actions whose devices have refused to cancel them
        self.lapsed: set[int] = set()  # actions that were cancelled because their maintenance windows were over

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def change(self, work: Callable[[Connection], T]) -> T:
        return self.database.begin_change(work).result()

    def read(self, work: Callable[[Connection], T]) -> T:
        return self.database.read(work)

    @property
    def rollout(self) -> Rollout:
        return self.read(lambda c: rows.find_rollout(c, "winter"))

    def active(self, device: int) -> UpdateAction | None:
        """The action that a device is told first, if it is one of the rollout."""
        found = self.read(lambda c: actions.active_actions(c, device))
        return found[0] if found and found[0].rollout is not None else None

    def newest(self, device: int) -> UpdateAction | None:
        """The newest action of the rollout for a device."""
        found = self.read(lambda c: actions.newest_actions(c, device, 1000))
        return next((action for action in found if action.rollout is not None), None)

    def is_overdue(self, action: UpdateAction) -> bool:
        return self.deadline is not None and action.active and self.now >= action.created + self.deadline * 1000

    def is_unsuccessful(self, action: UpdateAction) -> bool:
        return action.state in (ActionState.failed, ActionState.cancelled) or self.is_overdue(action)

    @initialize(
        success=st.sampled_from([50, 100]), error=st.sampled_from([1, 60]),
        deadline=st.sampled_from([None, DEADLINE]), start=st.sampled_from([None, START]), windows=st.booleans(),
    )  # fmt: skip
    def create(self, success: int, error: int, deadline: int | None, start: int | None, windows: bool) -> None:
        self.deadline = deadline
        self.devices = [
            self.change(lambda c, number=number: register_device(c, f"device-{number}", 0)).id  # type: ignore[misc]
            for number in range(DEVICES)
        ]
        self.offered = [
            self.change(lambda c, version=version: add_bundle(  # type: ignore[misc]
                c, NewBundle("os", version, "edge", f"{version}.raucb"), StoredFile(1, version, "1", "1"), 0
            )).id
            for version in ("1", "2")
        ]  # fmt: skip
        groups = tuple(GroupPlan(100 / 3, success, error, PAUSE, deadline=deadline) for _ in range(3))
        schedule = MaintenanceSchedule("00:00-24:00", until=WINDOWS_END) if windows else None
        plan = RolloutPlan("winter", self.offered[0], {}, groups, start=start, maintenance=schedule)
        parts = split_devices(self.devices, groups)
        self.change(lambda c: rows.insert_rollout(c, plan, parts, 0))

    @rule()
    def start(self) -> None:
        self.order(lambda c, r: transitions.start_rollout(c, r, self.now), RolloutState.ready, RolloutState.scheduled)

    @rule()
    def pause(self) -> None:
        self.order(lambda c, r: transitions.pause_rollout(c, r, "tea"), RolloutState.running)

    @rule(bundle=st.sampled_from([None, 0, 1]), retry=st.booleans())
    def resume(self, bundle: int | None, retry: bool) -> None:
        chosen = None if bundle is None else self.offered[bundle]
        self.order(
            lambda c, r: transitions.resume_rollout(c, r, self.now, bundle=chosen, retry=retry), RolloutState.paused,
            forgive=True,
        )  # fmt: skip

    @rule()
    @precondition(lambda self: self.rollout.state is RolloutState.paused or self.now > WINDOWS_END / 2)
    def abort(self) -> None:
        allowed = [state for state in RolloutState if state not in ROLLOUT_ENDED]
        self.order(lambda c, r: transitions.abort_rollout(c, r, "enough", self.now), *allowed)

    @rule(number=st.integers(0, DEVICES - 1))
    def poll(self, number: int) -> None:
        """An action whose maintenance windows are over is cancelled, but only once: its device may refuse that."""
        action = self.active(self.devices[number])
        if action is None or action.state is not ActionState.running or action.maintenance is None:
            return
        assert action.maintenance.has_lapsed(self.now, None) == (self.now >= WINDOWS_END)
        if self.now >= WINDOWS_END:
            self.change(lambda c: actions.cancel_lapsed(c, action, self.now))
            after = self.read(lambda c: actions.read_action(c, action.device, action.id)).state
            assert after is (ActionState.running if action.id in self.lapsed else ActionState.cancelling)
            self.lapsed.add(action.id)

    @rule(seconds=st.one_of(st.integers(1, 2 * PAUSE), st.just(DEADLINE)))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1000
        self.change(lambda c: transitions.advance_by_time(c, self.now))

    @rule(number=st.integers(0, DEVICES - 1), report=st.sampled_from([SUCCESS, SUCCESS, FAILURE]))
    def report(self, number: int, report: DeviceReport) -> None:
        action = self.active(self.devices[number])
        if action is None:
            return
        store = actions.report_cancelling if action.state is ActionState.cancelling else actions.report_update
        if action.state is ActionState.cancelling and report is FAILURE:
            self.refused.add(action.id)

        def change(connection: Connection) -> None:
            store(connection, action.device, action.id, report, self.now)
            transitions.advance_rollout(connection, self.rollout_id(), self.now)

        self.change(change)

    @rule(number=st.integers(0, DEVICES - 1))
    def replace(self, number: int) -> None:
        """Somebody tells a device to install something else, which cancels what the rollout has told it."""
        device = self.devices[number]

        def change(connection: Connection) -> None:
            action = actions.assign_bundle(connection, device, Assignment(self.offered[1], confirm=True), self.now)
            actions.end_action(connection, actions.read_action(connection, device, action), self.now)
            transitions.advance_by_time(connection, self.now)

        self.change(change)

    @rule(number=st.integers(0, DEVICES - 1))
    def decommission(self, number: int) -> None:
        device = self.devices[number]

        def change(connection: Connection) -> None:
            for action in actions.active_actions(connection, device):
                actions.end_action(connection, action, self.now)
            transitions.advance_by_time(connection, self.now)

        self.change(change)

    def standing(self, device: int) -> MemberStanding:
        action = self.newest(device)
        if action is None:
            return MemberStanding.pending
        if action.state in SUCCEEDED:
            return MemberStanding.succeeded
        if action.id in self.forgiven:
            return MemberStanding.forgiven
        if action.state in (ActionState.failed, ActionState.cancelled):
            return MemberStanding(action.state)
        return MemberStanding.overdue if self.is_overdue(action) else MemberStanding.pending

    @invariant()
    def groups_have_the_numbers_of_their_devices(self) -> None:
        if not hasattr(self, "devices"):
            return
        for number, group in enumerate(self.read(lambda c: rows.read_groups(c, 1))):
            standings = [self.standing(device) for device in self.devices[number * 2 : number * 2 + 2]]
            assert group.counts == GroupCounts(**{standing: standings.count(standing) for standing in MemberStanding})

    def rollout_id(self) -> int:
        return 1

    def order(self, work: Callable[[Connection, Rollout], None], *allowed: RolloutState, forgive: bool = False) -> None:
        """Carry out an order; it is refused in other states, and then changes nothing."""
        before = self.rollout
        if before.state in allowed:
            unsuccessful = {action.id for device in self.devices if (action := self.newest(device))
                            if self.is_unsuccessful(action)}  # fmt: skip
            self.change(lambda c: work(c, before))
            if forgive:
                self.forgiven |= unsuccessful
            return
        with pytest.raises(Refused):
            self.change(lambda c: work(c, before))
        assert self.rollout == before

    @invariant()
    def groups_begin_in_their_order_and_not_before_the_one_before_has_succeeded(self) -> None:
        if not hasattr(self, "devices"):
            return
        groups = self.read(lambda c: rows.read_groups(c, 1))
        states = [group.state for group in groups]
        expected = sorted(states, key=[GroupState.succeeded, GroupState.running, GroupState.waiting].index)
        assert states == expected and states.count(GroupState.running) <= 1
        for before, group in itertools.pairwise(groups):
            if group.started is not None:
                assert before.started is not None and group.started >= before.started + PAUSE * 1000

    @invariant()
    def only_devices_of_begun_groups_have_actions(self) -> None:
        if not hasattr(self, "devices"):
            return
        groups = self.read(lambda c: rows.read_groups(c, 1))
        for number, device in enumerate(self.devices):
            begun = groups[number // 2].state is not GroupState.waiting
            assert (self.newest(device) is not None) == begun

    @invariant()
    def a_threshold_is_never_missed_and_nothing_waits_for_ever(self) -> None:
        if not hasattr(self, "devices") or self.rollout.state is not RolloutState.running:
            return
        groups = self.read(lambda c: rows.read_groups(c, 1))
        waiting = 0
        for number, group in enumerate(groups):
            if group.state is GroupState.waiting:
                continue
            newest = [action for device in self.devices[number * 2 : number * 2 + 2] if (action := self.newest(device))]
            assert len(newest) == 2
            counted = [action for action in newest if action.state in SUCCEEDED or action.id not in self.forgiven]
            failures = sum(action.state is ActionState.failed or self.is_overdue(action) for action in counted)
            assert failures == 0 or failures * 100 < group.error * len(counted), "a missed threshold"
            pending = sum(action.active and not self.is_overdue(action) for action in counted)
            over = group.started is not None and self.now >= group.started + PAUSE * 1000
            assert group.state is GroupState.succeeded or pending or not over, "all have ended, and it was not judged"
            waiting += pending + (group.state is GroupState.running and not over)
        assert waiting, "it waits for nothing"

    @invariant()
    def an_ended_rollout_tells_no_device_to_install_anything(self) -> None:
        if not hasattr(self, "devices") or self.rollout.state not in ROLLOUT_ENDED:
            return
        if self.rollout.state is RolloutState.finished:
            active = [action for device in self.devices if (action := self.newest(device)) and action.active]
            assert all(self.is_overdue(action) or action.id in self.forgiven for action in active)
            return
        for device in self.devices:
            action = self.active(device)
            assert action is None or action.state is ActionState.cancelling or action.id in self.refused

    @invariant()
    def a_scheduled_rollout_starts_in_time(self) -> None:
        if hasattr(self, "devices") and self.rollout.state is RolloutState.scheduled:
            assert self.now < START


RolloutMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_rollouts = RolloutMachine.TestCase
