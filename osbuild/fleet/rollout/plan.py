"""What an operator orders: which devices get a bundle, in which groups, and when the next group may begin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osbuild.fleet.refusal import Refused
from osbuild.fleet.states import ActionKind

RESERVED = frozenset({"new", "preview"})  # addresses of the API and the page
MOST_GROUPS = 100
LONGEST_PAUSE = 90 * 24 * 3600  # seconds
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class GroupPlan:
    """One group: `percent` of the selected devices.

    The next group begins when `success` percent of the group's devices have succeeded, but not sooner than `pause`
    seconds after the group began. The rollout pauses when `error` percent have failed.
    """

    percent: float
    success: int = 100
    error: int = 1
    pause: int = 0


@dataclass(frozen=True)
class RolloutPlan:
    """A rollout. `selection` has patterns for attributes of devices. Without `start`, an operator starts it.

    `start` is in milliseconds since 1970. Of several rollouts for one device, the one of the highest `weight` is first.
    """

    name: str
    bundle: int
    selection: Mapping[str, str]
    groups: tuple[GroupPlan, ...]
    kind: ActionKind = ActionKind.forced
    weight: int = 1000
    confirm: bool = False
    start: int | None = None


def check_plan(plan: RolloutPlan) -> None:
    """Raise `Refused` if a plan is not valid."""
    problem = find_problem(plan)
    if problem:
        raise Refused(400, "bad-rollout", problem)


def find_problem(plan: RolloutPlan) -> str | None:
    """Return what is wrong with a plan; None if it is good."""
    if not NAME.fullmatch(plan.name) or plan.name in RESERVED:
        return "the name of a rollout has 1 to 64 letters, digits and inner `-`, `_` or `.`"
    if not 0 < len(plan.groups) <= MOST_GROUPS:
        return f"a rollout has 1 to {MOST_GROUPS} groups"
    if not 0 <= plan.weight <= 1000:
        return "the weight of a rollout is between 0 and 1000"
    for number, group in enumerate(plan.groups, 1):
        if problem := find_group_problem(group):
            return f"group {number}: {problem}"
    total = sum(group.percent for group in plan.groups)
    if abs(total - 100) > 0.01:
        return f"the groups have {total:g} percent of the devices together, and must have 100"
    return None


def find_group_problem(group: GroupPlan) -> str | None:
    """Return what is wrong with a group; None if it is good."""
    if not 0 < group.percent <= 100:
        return "`percent` is more than 0 and at most 100"
    if not 0 <= group.success <= 100 or not 1 <= group.error <= 100:
        return "`success` is between 0 and 100 percent, `error` between 1 and 100"
    if not 0 <= group.pause <= LONGEST_PAUSE:
        return f"`pause` is between 0 and {LONGEST_PAUSE} seconds"
    return None


def split_devices(devices: Sequence[int], groups: Sequence[GroupPlan]) -> list[list[int]]:
    """Return the devices of each group, in their order. Every device is in one group; each group has at least one.

    Raises `Refused` if there are fewer devices than groups.
    """
    if len(devices) < len(groups):
        message = f"{len(devices)} devices are selected, which are fewer than the {len(groups)} groups"
        raise Refused(409, "too-few-devices", message)
    parts: list[list[int]] = []
    begin, share = 0, 0.0
    for number, group in enumerate(groups, 1):
        share += group.percent
        remaining = len(groups) - number  # each of them needs a device
        end = min(max(round(len(devices) * share / 100), begin + 1), len(devices) - remaining)
        if not remaining:
            end = len(devices)
        parts.append(list(devices[begin:end]))
        begin = end
    return parts
