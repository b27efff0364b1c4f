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
from osbuild.fleet.actions import DeviceReport, UpdateAction
from osbuild.fleet.bundles import NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.devices import register_device
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout import rows, transitions
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan, split_devices
from osbuild.fleet.rollout.rows import Rollout
from osbuild.fleet.states import ROLLOUT_ENDED, ActionState, Execution, Finished, GroupState, RolloutState

T = TypeVar("T")
SUCCESS = DeviceReport(Execution.closed, Finished.success)
FAILURE = DeviceReport(Execution.closed, Finished.failure)
DEVICES, PAUSE = 6, 60


class RolloutMachine(RuleBasedStateMachine):
    """Six devices in three groups. The model: what each device has reported, and since when each group runs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(Path(self.folder.name) / "fleet.db")
        self.now = 0
        self.started: dict[int, int] = {}  # group -> when it was first seen to run

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def change(self, work: Callable[[Connection], T]) -> T:
        return self.database.begin_change(work).result()

    @property
    def rollout(self) -> Rollout:
        return self.change(lambda c: rows.find_rollout(c, "winter"))

    def active(self, device: int) -> UpdateAction | None:
        found = self.change(lambda c: actions.active_actions(c, device))
        return found[0] if found else None

    @initialize(success=st.sampled_from([50, 100]), error=st.sampled_from([1, 60]))
    def create(self, success: int, error: int) -> None:
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
        groups = tuple(GroupPlan(100 / 3, success, error, PAUSE) for _ in range(3))
        plan = RolloutPlan("winter", self.offered[0], {}, groups)
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
            lambda c, r: transitions.resume_rollout(c, r, self.now, bundle=chosen, retry=retry), RolloutState.paused
        )

    @rule()
    @precondition(lambda self: self.rollout.state is RolloutState.paused)
    def abort(self) -> None:
        self.order(lambda c, r: transitions.abort_rollout(c, r, "enough", self.now), RolloutState.paused)

    @rule(seconds=st.integers(1, 2 * PAUSE))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1000
        self.change(lambda c: transitions.advance_by_time(c, self.now))

    @rule(number=st.integers(0, DEVICES - 1), report=st.sampled_from([SUCCESS, SUCCESS, FAILURE]))
    def report(self, number: int, report: DeviceReport) -> None:
        action = self.active(self.devices[number])
        if action is None:
            return
        store = actions.report_cancelling if action.state is ActionState.cancelling else actions.report_update

        def change(connection: Connection) -> None:
            store(connection, action.device, action.id, report, self.now)
            transitions.advance_rollout(connection, self.rollout_id(), self.now)

        self.change(change)

    def rollout_id(self) -> int:
        return 1

    def order(self, work: Callable[[Connection, Rollout], None], *allowed: RolloutState) -> None:
        """Carry out an order; it is refused in other states, and then changes nothing."""
        before = self.rollout
        if before.state in allowed:
            self.change(lambda c: work(c, before))
            return
        with pytest.raises(Refused):
            self.change(lambda c: work(c, before))
        assert self.rollout == before

    @invariant()
    def groups_begin_in_their_order_and_not_before_the_one_before_has_succeeded(self) -> None:
        if not hasattr(self, "devices"):
            return
        groups = self.change(lambda c: rows.read_groups(c, 1))
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
        groups = self.change(lambda c: rows.read_groups(c, 1))
        for number, device in enumerate(self.devices):
            begun = groups[number // 2].state is not GroupState.waiting
            assert bool(self.change(lambda c, d=device: actions.newest_actions(c, d, 1))) == begun  # type: ignore[misc]

    @invariant()
    def a_threshold_is_never_missed_and_nothing_waits_for_ever(self) -> None:
        if not hasattr(self, "devices") or self.rollout.state is not RolloutState.running:
            return
        groups = self.change(lambda c: rows.read_groups(c, 1))
        running = [group for group in groups if group.state is GroupState.running]
        for group in running:
            counts = self.change(lambda c, g=group: rows.count_group(c, g))  # type: ignore[misc]
            failures = counts.failed + counts.cancelled - group.forgiven
            assert counts.cancelled or failures <= 0 or failures * 100 < group.error * counts.counted
            over = group.started is not None and self.now >= group.started + PAUSE * 1000
            ended = counts.succeeded + counts.failed + counts.cancelled
            assert ended < counts.total or not over, "all have ended, and it was not judged"
        assert running or any(self.active(device) for device in self.devices)

    @invariant()
    def an_ended_rollout_tells_no_device_to_install_anything(self) -> None:
        if not hasattr(self, "devices") or self.rollout.state not in ROLLOUT_ENDED:
            return
        states = {action.state for device in self.devices if (action := self.active(device)) is not None}
        refused_cancellations = {ActionState.running} if self.rollout.state is RolloutState.aborted else set()
        assert states <= {ActionState.cancelling} | refused_cancellations


RolloutMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_rollouts = RolloutMachine.TestCase
