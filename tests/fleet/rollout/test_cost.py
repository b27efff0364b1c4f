"""What the report of a device costs does not depend on how many devices its group has."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from osbuild.fleet import actions
from osbuild.fleet.actions import DeviceReport
from osbuild.fleet.bundles import NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.rollout import rows, transitions
from osbuild.fleet.rollout.grouping import split_devices
from osbuild.fleet.rollout.judgement import GroupCounts
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.states import Execution, Finished
from osbuild.fleet.tables import devices

SUCCESS = DeviceReport(Execution.closed, Finished.success)
WARM, MEASURED = 5, 20  # reports


def count_instructions(connection: Connection, group: int) -> int:
    """Return how many instructions of SQLite's virtual machine the reports of some devices of a group need."""
    instructions = 0

    def count() -> int:
        nonlocal instructions
        instructions += 1
        return 0

    raw: Any = connection.connection.driver_connection
    for device in range(group, group + WARM + MEASURED):
        raw.set_progress_handler(count if device >= group + WARM else None, 1)
        (action,) = actions.active_actions(connection, device)
        actions.report_update(connection, device, action.id, SUCCESS, 2)
        transitions.advance_rollout(connection, 1, 2)
    raw.set_progress_handler(None, 0)
    return instructions


def measure_reports(path: Path, size: int, deadline: int | None) -> int:
    """Return the instructions for reports in the second of two groups of `size` devices, both of which have begun."""
    database = Database(path)
    groups = tuple(GroupPlan(50, 1, 1, 0, deadline=deadline) for _ in range(2))

    def measure(connection: Connection) -> int:
        add_bundle(connection, NewBundle("os", "1", "edge", "1.raucb"), StoredFile(1, "1", "1", "1"), 0)
        connection.execute(insert(devices), [{"name": f"{number:05}", "created": 0} for number in range(2 * size)])
        numbers = range(1, 2 * size + 1)
        plan = RolloutPlan("winter", 1, {}, groups)
        rollout = rows.insert_rollout(connection, plan, split_devices(list(numbers), groups), 0)
        transitions.start_rollout(connection, rollout, 1)
        for device in numbers[: -(-size // 100)]:  # the percent that lets the second group begin
            (action,) = actions.active_actions(connection, device)
            actions.report_update(connection, device, action.id, SUCCESS, 2)
        transitions.advance_rollout(connection, 1, 2)
        instructions = count_instructions(connection, size + 1)
        assert rows.read_groups(connection, 1)[1].counts == GroupCounts(size - WARM - MEASURED, WARM + MEASURED)
        return instructions

    try:
        return database.begin_change(measure).result()
    finally:
        database.close()


@pytest.mark.parametrize("deadline", [None, 3600])
def test_a_report_costs_the_same_in_a_large_group(tmp_path: Path, deadline: int | None) -> None:
    small = measure_reports(tmp_path / "small.db", 50, deadline)
    large = measure_reports(tmp_path / "large.db", 2000, deadline)
    # Indexes are deeper, and the pages of larger tables are split at other times.
    assert large < 1.2 * small, f"{small} instructions for {MEASURED} reports in a small group, {large} in a large one"
