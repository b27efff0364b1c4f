"""The selection and the groups of a rollout, as hawkBit has them."""

from dataclasses import replace

import pytest

from osbuild.fleet.hawkbit.rollout import RolloutRequest, make_filter, make_groups, parse_selection, parse_shares
from osbuild.shared.errors import UsageError

REQUEST = RolloutRequest(
    name="winter", compatible="edge-x86_64", selection={}, shares=[100.0], success=95, error=5
)  # fmt: skip


def test_only_devices_that_the_bundle_is_for_are_selected() -> None:
    assert make_filter(REQUEST) == "attribute.compatible=='edge-x86_64'"


def test_patterns_become_conditions_that_must_all_hold() -> None:
    request = replace(REQUEST, selection=parse_selection(["name=shop-*, kiosk-1", "version=1.0.*"]))
    assert make_filter(request) == (
        "attribute.compatible=='edge-x86_64';(controllerId=='shop-*',controllerId=='kiosk-1');"
        "attribute.version=='1.0.*'"
    )


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["version"], "this selects nothing: version"),
        (["version="], "this selects nothing: version="),
        (["name=shop-?"], "cannot match this pattern"),
        (["name=shop-[12]"], "cannot match this pattern"),
        (["name=a,,b"], "empty alternative"),
        (["a;b==c=x"], "cannot select by this attribute"),
    ],
)
def test_what_hawkbit_cannot_select_is_a_usage_error(patterns: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_filter(replace(REQUEST, selection=parse_selection(patterns)))


@pytest.mark.parametrize("shares", ["100", "5,25,70", "1,1,98", "33.3,33.3,33.4"])
def test_percentages_of_what_is_left_are_percentages_of_all_devices(shares: str) -> None:
    groups = make_groups(replace(REQUEST, shares=parse_shares(shares)))
    left, sizes = 100.0, []
    for group in groups:
        assert 0 < group["targetPercentage"] <= 100
        sizes.append(left * group["targetPercentage"] / 100)
        left -= sizes[-1]
    assert sizes == pytest.approx(parse_shares(shares)) and groups[-1]["targetPercentage"] == 100
    assert {group["successCondition"]["expression"] for group in groups} == {"95"}
    assert {group["errorCondition"]["expression"] for group in groups} == {"5"}
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("shares", ["10,20", "0,100", "-10,110", "nan"])
def test_groups_that_are_not_all_devices_are_a_usage_error(shares: str) -> None:
    with pytest.raises(UsageError, match="must have 100"):
        make_groups(replace(REQUEST, shares=parse_shares(shares)))


def test_shares_that_are_not_numbers_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not percentages: a,b"):
        parse_shares("a,b")
