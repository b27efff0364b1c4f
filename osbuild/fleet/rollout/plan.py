"""What an operator orders: which devices get a bundle, in which groups, and when the next group may begin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from osbuild.fleet.maintenance import MaintenanceSchedule, check_schedule
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.selection import check_selection
from osbuild.fleet.states import ActionKind

RESERVED = frozenset({"new", "preview"})  # addresses of the API and the page
MOST_GROUPS = 100
LATEST = 253_402_300_799_000
"""the end of the year 9999 in milliseconds since 1970; no later time can be shown"""
LONGEST_PAUSE = 90 * 24 * 3600  # seconds
LONGEST_DEADLINE = 366 * 24 * 3600  # seconds
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class GroupSize(Enum):
    """What determines how many devices a group has."""

    percent = auto()
    count = auto()
    filter = auto()
    rest = auto()  # all devices that the groups before it do not have


@dataclass(frozen=True)
class GroupPlan:
    """One group: `percent` of the selected devices, or `count` of them, or those that `selection` selects, or the rest.

    The next group begins when `success` percent of the group's devices have succeeded, but not sooner than `pause`
    seconds after the group began. The rollout pauses when `error` percent have failed. A device that has not reported
    an end `deadline` seconds after it got its order counts as failed.
    """

    percent: float | None = None
    success: int = 100
    error: int = 1
    pause: int = 0
    count: int | None = None
    selection: Mapping[str, str] | None = None
    deadline: int | None = None

    @property
    def size(self) -> GroupSize:
        """What determines the size of the group."""
        if self.percent is not None:
            return GroupSize.percent
        if self.count is not None:
            return GroupSize.count
        return GroupSize.rest if self.selection is None else GroupSize.filter


@dataclass(frozen=True)
class RolloutPlan:
    """A rollout. `selection` has patterns for attributes of devices. Without `start`, an operator starts it.

    `start` is in milliseconds since 1970. Of several rollouts for one device, the one of the highest `weight` is first.
    With `maintenance`, devices install only in maintenance windows.
    """

    name: str
    bundle: int
    selection: Mapping[str, str]
    groups: tuple[GroupPlan, ...]
    kind: ActionKind = ActionKind.forced
    weight: int = 1000
    confirm: bool = False
    start: int | None = None
    maintenance: MaintenanceSchedule | None = None


def check_plan(plan: RolloutPlan, now: int) -> None:
    """Raise `Refused` if a plan is not valid. `now` is in milliseconds since 1970."""
    check_selection(plan.selection)
    for group in plan.groups:
        check_selection(group.selection or {})
    if plan.maintenance is not None:
        check_schedule(plan.maintenance, now)
    problem = find_problem(plan)
    if problem is None and plan.start is not None and plan.start <= now:
        problem = "`start` is not in the future; a rollout that starts at once has `now` instead"
    if problem is None and plan.start is not None and plan.start > LATEST:
        problem = "`start` is after the year 9999"
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
    return find_size_problem(plan.groups)


def find_group_problem(group: GroupPlan) -> str | None:
    """Return what is wrong with a group; None if it is good."""
    if sum(value is not None for value in (group.percent, group.count, group.selection)) > 1:
        return "a group has only one of `percent`, `count` and `selection`"
    if group.percent is not None and not 0 < group.percent <= 100:
        return "`percent` is more than 0 and at most 100"
    if group.count is not None and group.count < 1:
        return "`count` is at least 1"
    if group.selection is not None and not group.selection:
        return "`selection` has at least one pattern"
    if not 0 <= group.success <= 100 or not 1 <= group.error <= 100:
        return "`success` is between 0 and 100 percent, `error` between 1 and 100"
    if not 0 <= group.pause <= LONGEST_PAUSE:
        return f"`pause` is between 0 and {LONGEST_PAUSE} seconds"
    if group.deadline is not None and not 0 < group.deadline <= LONGEST_DEADLINE:
        return f"`deadline` is between 1 and {LONGEST_DEADLINE} seconds"
    return None


def find_size_problem(groups: Sequence[GroupPlan]) -> str | None:
    """Return what is wrong with the sizes of groups together; None if they are good."""
    sizes = [group.size for group in groups]
    if GroupSize.rest in sizes[:-1]:
        return "only the last group may have the rest of the devices"
    total = sum(group.percent or 0 for group in groups)
    alone = set(sizes) == {GroupSize.percent}
    if total > 100.01 or (alone and total < 99.99):
        return f"the groups have {total:g} percent of the devices together, and must have 100"
    return None
