"""What the update server stores, sends and compares: kinds and states of actions, and what devices report."""

from enum import StrEnum


class ActionKind(StrEnum):
    """How strictly a device must follow an action."""

    forced = "forced"  # download and install at once
    soft = "soft"  # when it suits the device
    download_only = "download-only"


class ActionState(StrEnum):
    """The state of an action. Those in `ENDED` are final."""

    waiting = "waiting for confirmation"
    running = "running"
    cancelling = "cancelling"
    downloaded = "downloaded"
    cancelled = "cancelled"
    finished = "finished"
    failed = "failed"


ENDED = frozenset({ActionState.downloaded, ActionState.cancelled, ActionState.finished, ActionState.failed})


class RolloutState(StrEnum):
    """The state of a rollout. Those in `ROLLOUT_ENDED` are final."""

    ready = "ready"  # waits for an operator
    scheduled = "scheduled"  # starts at a time
    running = "running"
    paused = "paused"  # by an operator, or by a threshold: starts no further group
    finished = "finished"
    aborted = "aborted"


ROLLOUT_ENDED = frozenset({RolloutState.finished, RolloutState.aborted})


class GroupState(StrEnum):
    """The state of one group of a rollout."""

    waiting = "waiting"
    running = "running"  # its devices have actions
    succeeded = "succeeded"  # enough of its devices have succeeded


class MemberStanding(StrEnum):
    """What a device of a rollout has come to. Its group has the number of devices of each standing."""

    pending = "pending"  # no action yet, or one that has not ended and has time left
    overdue = "overdue"  # its action has not ended before the deadline
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"  # it was told to do something else
    forgiven = "forgiven"  # unsuccessful before the last resume, and has not succeeded since


class RequestState(StrEnum):
    """The state of a request of an operator. Those in `REQUEST_ENDED` are final."""

    waiting = "waiting"  # the device has not asked for it yet
    delivered = "delivered"
    succeeded = "succeeded"
    failed = "failed"
    rejected = "rejected"  # by the device
    expired = "expired"  # before the device asked for it, or before it said how it has ended


REQUEST_ENDED = frozenset(set(RequestState) - {RequestState.waiting, RequestState.delivered})


class Execution(StrEnum):
    """`status.execution` of a report (DDI)."""

    closed = "closed"
    proceeding = "proceeding"
    canceled = "canceled"
    scheduled = "scheduled"
    rejected = "rejected"
    resumed = "resumed"
    downloaded = "downloaded"
    download = "download"


class Finished(StrEnum):
    """`status.result.finished` of a report (DDI)."""

    success = "success"
    failure = "failure"
    none = "none"
