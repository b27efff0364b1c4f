"""Plans of rollouts, and the devices of their groups."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.judgement import GroupCounts, Judgement, judge_group
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan, check_plan, split_devices
from osbuild.fleet.rollout.selection import check_selection, select_devices

PLAN = RolloutPlan("winter", 1, {}, (GroupPlan(10), GroupPlan(90)))


def test_a_good_plan_is_accepted() -> None:
    check_plan(PLAN)
    check_plan(replace(PLAN, groups=tuple(GroupPlan(100 / 3) for _ in range(3))))


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
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        check_plan(replace(PLAN, **changes))  # type: ignore[arg-type]


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
            assert abs(len(part) - count * group.percent / 100) <= len(groups)


def device(name: str, **attributes: str) -> FleetDevice:
    return FleetDevice(1, name, 0, None, None, None, None, None, None, None, attributes, False, False, None)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({}, ["shop-1", "shop-2", "till-1"]),
        ({"name": "shop-*"}, ["shop-1", "shop-2"]),
        ({"name": "*-1", "version": "1.?"}, ["shop-1"]),
        ({"version": "2.0, 1.0"}, ["shop-1", "shop-2"]),
        ({"missing": "*"}, []),
    ],
)
def test_devices_are_selected_by_patterns(selection: dict[str, str], names: list[str]) -> None:
    fleet = [device("shop-1", version="1.0"), device("shop-2", version="2.0"), device("till-1", version="3.0")]
    check_selection(selection)
    assert [chosen.name for chosen in select_devices(fleet, selection)] == names


@pytest.mark.parametrize(
    "selection", [{"": "x"}, {"x": ""}, {"x": "a,"}, {"x": "a, ,b"}, {"x": "y" * 129}, {str(n): "x" for n in range(21)}]
)
def test_a_senseless_selection_is_refused(selection: dict[str, str]) -> None:
    with pytest.raises(Refused):
        check_selection(selection)


@pytest.mark.parametrize(
    ("counts", "success", "error", "expected"),
    [
        (GroupCounts(10, 0, 0), 100, 1, Judgement.wait),
        (GroupCounts(10, 10, 0), 100, 1, Judgement.succeeded),
        (GroupCounts(10, 8, 0), 80, 50, Judgement.succeeded),
        (GroupCounts(10, 7, 0), 80, 50, Judgement.wait),
        (GroupCounts(10, 7, 3), 80, 50, Judgement.failed),
        (GroupCounts(10, 0, 1), 80, 10, Judgement.failed),
        (GroupCounts(10, 0, 1), 80, 11, Judgement.wait),
        (GroupCounts(10, 0, 1, forgiven=1), 80, 1, Judgement.wait),
        (GroupCounts(10, 9, 1, forgiven=1), 100, 1, Judgement.succeeded),
        (GroupCounts(10, 9, 0, cancelled=1), 100, 1, Judgement.failed),
        (GroupCounts(10, 9, 0, cancelled=1), 90, 1, Judgement.succeeded),
        (GroupCounts(10, 9, 0, cancelled=1, forgiven=1), 100, 1, Judgement.succeeded),
        (GroupCounts(2, 0, 0, cancelled=2), 100, 1, Judgement.failed),
        (GroupCounts(10, 0, 3), 80, 50, Judgement.failed),
        (GroupCounts(10, 10, 0), 0, 1, Judgement.succeeded),
    ],
)
def test_a_group_is_judged_by_its_thresholds(
    counts: GroupCounts, success: int, error: int, expected: Judgement
) -> None:
    assert judge_group(counts, success, error, minimum_time_over=True) is expected
    early = judge_group(counts, success, error, minimum_time_over=False)
    assert early is (Judgement.wait if expected is Judgement.succeeded else expected)
