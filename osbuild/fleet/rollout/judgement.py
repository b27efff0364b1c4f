"""Whether a group of a rollout goes on, lets the next one begin, or pauses the rollout."""

from dataclasses import dataclass
from enum import Enum, auto


class Judgement(Enum):
    """What a group's reports mean for the rollout."""

    wait = auto()
    succeeded = auto()
    failed = auto()


@dataclass(frozen=True)
class GroupCounts:
    """How many devices a group has, how many have succeeded, failed, or ended otherwise (cancelled).

    `forgiven` failures happened before an operator resumed the rollout.
    """

    total: int
    succeeded: int
    failed: int
    cancelled: int = 0
    forgiven: int = 0

    @property
    def ended(self) -> int:
        """Devices that will report nothing more."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def counted(self) -> int:
        """Devices of which the thresholds are percentages."""
        return self.total - min(self.forgiven, self.failed) - self.cancelled


def judge_group(counts: GroupCounts, success: int, error: int, *, paused_long_enough: bool) -> Judgement:
    """Judge a running group. `success` and `error` are percent."""
    failures = max(counts.failed - counts.forgiven, 0)
    if failures and failures * 100 >= error * counts.counted:
        return Judgement.failed
    enough = counts.succeeded * 100 >= success * counts.counted
    if enough and paused_long_enough:
        return Judgement.succeeded
    # No device is left that could still succeed. Without this, a rollout would wait for ever.
    if not enough and counts.ended >= counts.total:
        return Judgement.failed
    return Judgement.wait
