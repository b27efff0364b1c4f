"""Plans of rollouts, and the devices of their groups."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.grouping import group_devices, split_devices
from osbuild.fleet.rollout.judgement import GroupCounts, Judgement, judge_group
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan, check_plan
from osbuild.fleet.rollout.plan_text import format_duration, parse_duration, parse_groups, parse_time
from osbuild.fleet.rollout.selection import check_selection, select_devices

NOW = 1_800_000_000_000
PLAN = RolloutPlan("winter", 1, {}, (GroupPlan(10), GroupPlan(90)))


def test_a_good_plan_is_accepted() -> None:
    check_plan(PLAN, NOW)
    check_plan(replace(PLAN, groups=tuple(GroupPlan(100 / 3) for _ in range(3))), NOW)
    check_plan(replace(PLAN, start=NOW + 1), NOW)
    check_plan(replace(PLAN, groups=(GroupPlan(5), GroupPlan(count=3), GroupPlan(selection={"name": "x"}))), NOW)
    check_plan(replace(PLAN, groups=(GroupPlan(count=3), GroupPlan())), NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "the name of a rollout"),
        ({"name": "a/b"}, "the name of a rollout"),
        ({"name": "x" * 65}, "the name of a rollout"),
        ({"name": "a\nb"}, "the name of a rollout"),
        ({"groups": ()}, "1 to 100 groups"),
        ({"weight": 1001}, "weight"),
        ({"groups": (GroupPlan(50), GroupPlan(49))}, "99 percent"),
        ({"groups": (GroupPlan(0), GroupPlan(100))}, "group 1: `percent`"),
        ({"groups": (GroupPlan(100, success=101),)}, "group 1: `success`"),
        ({"groups": (GroupPlan(100, error=0),)}, "group 1: `success`"),
        ({"groups": (GroupPlan(100, pause=-1),)}, "group 1: `pause`"),
        ({"groups": (GroupPlan(float("nan")),)}, "group 1: `percent`"),
        ({"groups": (GroupPlan(), GroupPlan(count=1))}, "only the last group"),
        ({"groups": (GroupPlan(60), GroupPlan(60), GroupPlan())}, "120 percent"),
        ({"groups": (GroupPlan(10, count=1), GroupPlan())}, "group 1: a group has only one of"),
        ({"groups": (GroupPlan(count=0), GroupPlan())}, "group 1: `count`"),
        ({"groups": (GroupPlan(selection={}), GroupPlan())}, "group 1: `selection`"),
        ({"groups": (GroupPlan(selection={"name": "a,"}), GroupPlan())}, "an empty alternative"),
        ({"start": NOW}, "not in the future"),
        ({"start": 253_402_300_799_001}, "after the year 9999"),
        ({"groups": (GroupPlan(100, deadline=0),)}, "group 1: `deadline`"),
        ({"maintenance": MaintenanceSchedule("Sat")}, "not a maintenance window: Sat"),
        ({"maintenance": MaintenanceSchedule("01:00-02:00", "Mars/Olympus")}, "time zone Mars/Olympus is unknown"),
        ({"maintenance": MaintenanceSchedule("01:00-02:00", "../../etc/passwd")}, "is unknown"),
        ({"maintenance": MaintenanceSchedule("01:00-02:00", until=NOW)}, "end in the past"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        check_plan(replace(PLAN, **changes), NOW)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(0, 300))
def test_every_device_is_in_one_group_and_no_group_is_empty(weights: list[int], count: int) -> None:
    groups = [GroupPlan(weight * 100 / sum(weights)) for weight in weights]
    devices = list(range(count))
    if count < len(groups):
        with pytest.raises(Refused, match="fewer than"):
            split_devices(devices, groups)
        return
    parts = split_devices(devices, groups)
    assert [device for part in parts for device in part] == devices
    assert all(parts) and len(parts) == len(groups)
    if count >= 100 * len(groups):
        for part, group in zip(parts, groups, strict=True):
            assert group.percent and abs(len(part) - count * group.percent / 100) <= len(groups)


def device(name: str, /, **attributes: str) -> FleetDevice:
    return FleetDevice(1, name, 0, None, None, None, None, None, None, None, attributes, False, False, None)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({}, ["shop-1", "shop-2", "till-1"]),
        ({"name": "shop-*"}, ["shop-1", "shop-2"]),
        ({"name": "*-1", "version": "1.?"}, ["shop-1"]),
        ({"version": "2.0, 1.0"}, ["shop-1", "shop-2"]),
        ({"missing": "*"}, []),
        ({"tag.site": "*"}, ["shop-2"]),
    ],
)
def test_devices_are_selected_by_patterns(selection: dict[str, str], names: list[str]) -> None:
    fleet = [
        device("shop-1", version="1.0"),
        replace(device("shop-2", version="2.0"), tags={"site": "berlin"}),
        device("till-1", **{"version": "3.0", "name": "shop-3", "tag.site": "chosen by the device"}),
    ]
    check_selection(selection)
    assert [chosen.name for chosen in select_devices(fleet, selection)] == names


@pytest.mark.parametrize(
    "selection", [{"": "x"}, {"x": ""}, {"x": "a,"}, {"x": "a, ,b"}, {"x": "y" * 129}, {str(n): "x" for n in range(21)}]
)
def test_a_senseless_selection_is_refused(selection: dict[str, str]) -> None:
    with pytest.raises(Refused):
        check_selection(selection)


def make_counts(total: int, succeeded: int, failed: int, **others: int) -> GroupCounts:
    pending = total - succeeded - failed - sum(others.values())
    return GroupCounts(pending, succeeded, failed, **others)


@pytest.mark.parametrize(
    ("counts", "success", "error", "expected"),
    [
        (make_counts(10, 0, 0), 100, 1, Judgement.wait),
        (make_counts(10, 10, 0), 100, 1, Judgement.succeeded),
        (make_counts(10, 8, 0), 80, 50, Judgement.succeeded),
        (make_counts(10, 7, 0), 80, 50, Judgement.wait),
        (make_counts(10, 7, 3), 80, 50, Judgement.failed),
        (make_counts(10, 0, 1), 80, 10, Judgement.failed),
        (make_counts(10, 0, 1), 80, 11, Judgement.wait),
        (make_counts(10, 0, 0, forgiven=1), 80, 1, Judgement.wait),
        (make_counts(10, 9, 0, forgiven=1), 100, 1, Judgement.succeeded),
        (make_counts(10, 8, 1, forgiven=1), 50, 11, Judgement.failed),
        (make_counts(10, 0, 0, overdue=1), 80, 10, Judgement.failed),
        (make_counts(10, 0, 0, overdue=1), 80, 11, Judgement.wait),
        (make_counts(10, 8, 1, overdue=1), 80, 50, Judgement.succeeded),
        (make_counts(10, 7, 1, overdue=2), 80, 50, Judgement.failed),
        (make_counts(10, 9, 0, cancelled=1), 100, 1, Judgement.failed),
        (make_counts(10, 9, 0, cancelled=1), 90, 1, Judgement.succeeded),
        (make_counts(2, 0, 0, cancelled=2), 100, 1, Judgement.failed),
        (make_counts(10, 0, 3), 80, 50, Judgement.failed),
        (make_counts(10, 10, 0), 0, 1, Judgement.succeeded),
    ],
)
def test_a_group_is_judged_by_its_thresholds(
    counts: GroupCounts, success: int, error: int, expected: Judgement
) -> None:
    assert judge_group(counts, success, error, minimum_time_over=True) is expected
    early = judge_group(counts, success, error, minimum_time_over=False)
    assert early is (Judgement.wait if expected is Judgement.succeeded else expected)


def test_groups_choose_in_their_order_from_the_devices_that_are_left() -> None:
    fleet = [replace(device(f"d{number}", site="ab"[number % 2]), id=number) for number in range(10)]
    groups = (GroupPlan(count=2), GroupPlan(selection={"site": "b"}), GroupPlan(20), GroupPlan())
    assert group_devices(fleet, groups) == [[0, 1], [3, 5, 7, 9], [2, 4], [6, 8]]
    assert group_devices(fleet, (GroupPlan(30), GroupPlan(70))) == [[0, 1, 2], list(range(3, 10))]
    with pytest.raises(Refused, match="8 of the selected devices are in no group: add the group `rest`"):
        group_devices(fleet, groups[:1])
    with pytest.raises(Refused, match="group 3 would have no device: 4 of 10 devices are left for it"):
        group_devices(fleet, (*groups[:2], GroupPlan(selection={"site": "b"}), GroupPlan()))


def test_what_people_write_is_parsed() -> None:
    parsed = [(group.percent, group.count, group.selection) for group in parse_groups("5, 2.5%,count=3,a=x*+b=y,rest")]
    assert parsed == [
        (5, None, None), (2.5, None, None), (None, 3, None), (None, None, {"a": "x*", "b": "y"}), (None, None, None)
    ]  # fmt: skip
    assert parse_time("2026-12-01T02:00+01:00") == parse_time("2026-12-01T01:00:00Z") == 1796086800000
    durations = ["90", "90s", "30m", "12h", "1d12h", "1d1h1m1s"]
    assert [parse_duration(text) for text in durations] == [90, 90, 1800, 43200, 129600, 90061]
    assert [format_duration(seconds) for seconds in (0, 90, 129600)] == ["0s", "1m30s", "1d12h"]


@pytest.mark.parametrize("text", ["", "x", "1w", "-1", "1.5h", "1h1d", "h"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "5,", "five", "count=", "count=-1", "site=", "=x", "rest%"])
def test_what_is_not_a_group_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this"):
        parse_groups(text)
