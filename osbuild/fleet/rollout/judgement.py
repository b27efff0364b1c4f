"""Whether a group of a rollout goes on, lets the next one begin, or pauses the rollout."""

from dataclasses import dataclass
from enum import Enum, auto


class Judgement(Enum):
    """What the reports of a group's devices mean for the rollout."""

    wait = auto()
    succeeded = auto()
    failed = auto()


@dataclass(frozen=True)
class GroupCounts:
    """How many devices of a group have each standing."""

    pending: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    overdue: int = 0
    forgiven: int = 0

    @property
    def total(self) -> int:
        """All devices of the group."""
        return self.counted + self.forgiven

    @property
    def counted(self) -> int:
        """Devices of which the thresholds are percentages."""
        return self.pending + self.succeeded + self.unsuccessful

    @property
    def unsuccessful(self) -> int:
        """Counted devices that will not succeed any more, or not in time."""
        return self.failed + self.cancelled + self.overdue


def has_too_many_failures(counts: GroupCounts, error: int) -> bool:
    """Whether at least `error` percent of the counted devices have failed, or are overdue."""
    failed = counts.failed + counts.overdue
    return failed > 0 and failed * 100 >= error * counts.counted


def judge_group(counts: GroupCounts, success: int, error: int, *, minimum_time_over: bool) -> Judgement:
    """Judge a running group. `success` and `error` are percent."""
    if has_too_many_failures(counts, error):
        return Judgement.failed
    if counts.succeeded * 100 >= success * counts.counted:
        return Judgement.succeeded if minimum_time_over else Judgement.wait
    possible = counts.counted - counts.unsuccessful
    return Judgement.failed if possible * 100 < success * counts.counted else Judgement.wait
