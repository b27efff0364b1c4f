"""What the management API receives and sends. Times are in milliseconds since 1970."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.rollout.plan import LATEST, GroupPlan, RolloutPlan
from osbuild.fleet.states import ActionKind, ActionState, GroupState, RequestState, RolloutState
from osbuild.shared.operator_requests import LONGEST_VALIDITY, RequestKind

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""the id of a row, or a count"""
Moment = Annotated[int, msgspec.Meta(ge=0, le=LATEST)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=10 * 365 * 24 * 3600)]
Note = Annotated[str, msgspec.Meta(max_length=128)]


class MaintenanceTimes(msgspec.Struct, forbid_unknown_fields=True):
    """Maintenance windows, see `MaintenanceSchedule`."""

    windows: Annotated[str, msgspec.Meta(max_length=1000)]
    zone: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    until: Moment | None = None

    def schedule(self) -> MaintenanceSchedule:
        """Return the schedule, which is not checked yet."""
        return MaintenanceSchedule(self.windows, self.zone, self.until)


class NewAction(msgspec.Struct, forbid_unknown_fields=True):
    """An order to install a bundle."""

    bundle: Number
    kind: ActionKind = ActionKind.forced
    confirm: bool = False
    maintenance: MaintenanceTimes | None = None


class NewEnrolmentToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token to create, for `uses` devices, or only for the one named `device`. `seconds` is how long it is valid."""

    uses: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    seconds: Seconds = 24 * 3600
    note: Note = ""
    device: str | None = None


class NewAccessToken(msgspec.Struct, forbid_unknown_fields=True):
    """An access token to create: its role is viewer, operator or admin."""

    # Python's `$` also matches before a line break at the end; the OpenAPI description has no other sign for the end.
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$(?!\n)")]
    role: str
    seconds: Seconds = 90 * 24 * 3600


class AccessTokenView(msgspec.Struct):
    """An access token, without its secret."""

    name: str
    role: str
    created: int
    expires: int
    revoked: int | None


class EnrolmentTokenView(msgspec.Struct):
    """An enrolment token, without its secret."""

    id: int
    note: str
    device: str | None
    uses_left: int
    created: int
    expires: int
    revoked: int | None


class NewRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request to create. `seconds` is how long the device may carry it out."""

    kind: RequestKind
    seconds: Annotated[int, msgspec.Meta(ge=60, le=LONGEST_VALIDITY // 1000)] = 3600


class RequestView(msgspec.Struct):
    """A request to a device. `details` are lines of the device; with `diagnostics`, there is an archive."""

    id: int
    device: str
    kind: RequestKind
    state: RequestState
    who: str
    created: int
    expires: int
    ended: int | None
    details: list[str]
    diagnostics: bool


class NewGroup(msgspec.Struct, forbid_unknown_fields=True):
    """A group of a rollout to create, see `GroupPlan`."""

    percent: float | None = None
    success: int = 100
    error: int = 1
    pause: Number = 0
    count: Number | None = None
    selection: dict[str, str] | None = None
    deadline: Number | None = None

    def plan(self) -> GroupPlan:
        """Return the plan, which is not checked yet."""
        return GroupPlan(self.percent, self.success, self.error, self.pause, self.count, self.selection, self.deadline)


class NewRollout(msgspec.Struct, forbid_unknown_fields=True):
    """A rollout to create, see `RolloutPlan`. With `now`, it starts at once."""

    name: str
    bundle: Number
    groups: list[NewGroup]
    selection: dict[str, str] = {}
    kind: ActionKind = ActionKind.forced
    weight: Number = 1000
    confirm: bool = False
    start: Moment | None = None
    now: bool = False
    maintenance: MaintenanceTimes | None = None

    def plan(self) -> RolloutPlan:
        """Return the plan, which is not checked yet."""
        groups = tuple(group.plan() for group in self.groups)
        schedule = None if self.maintenance is None else self.maintenance.schedule()
        return RolloutPlan(
            self.name, self.bundle, self.selection, groups, self.kind, self.weight, self.confirm, self.start, schedule
        )


class NewTags(msgspec.Struct, forbid_unknown_fields=True):
    """Tags to set on a device. One without a value is removed."""

    tags: dict[str, str | None]


class ResumeOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How a paused rollout goes on: with another bundle, or with those again that have failed."""

    bundle: Number | None = None
    retry: bool = False


class GroupView(msgspec.Struct):
    """A group of a rollout. Thresholds are percent, `pause` and `deadline` are in seconds.

    Of its devices, `pending` have not reported an end, and `overdue` have not done so before the deadline. Those that
    are `forgiven` were unsuccessful before the rollout was resumed. They are not among the others.
    """

    state: GroupState
    devices: int
    succeeded: int
    failed: int
    cancelled: int
    success: int
    error: int
    pause: int
    deadline: int | None
    pending: int
    overdue: int
    forgiven: int


class RolloutView(msgspec.Struct):
    """A rollout with its groups. `reason` says why it is paused or has ended.

    The answer to its creation has in `unsaid` how many of its devices have not said for which bundles they are.
    """

    name: str
    bundle: str
    kind: ActionKind
    state: RolloutState
    reason: str
    created: int
    start: int | None
    ended: int | None
    selection: Mapping[str, str]
    groups: list[GroupView]
    maintenance: MaintenanceSchedule | None
    unsaid: int = 0


class Preview(msgspec.Struct):
    """How many devices each group of a rollout would have, and the names of the first ones.

    `names` has the names of the first devices of each group. `unsaid` devices have not said for which bundles they are.
    """

    groups: list[int]
    first: list[str]
    names: list[list[str]]
    unsaid: int = 0


class ActionView(msgspec.Struct):
    """An action of a device. In the answer to its creation, it is `unsaid` if the device has not said what it is."""

    id: int
    bundle: str
    kind: ActionKind
    state: ActionState
    active: bool
    created: int
    ended: int | None
    messages: list[str]
    maintenance: MaintenanceSchedule | None
    unsaid: bool = False


class DeviceView(msgspec.Struct):
    """A device, with its newest actions first. One that is `decommissioned` is not accepted any more."""

    name: str
    created: int
    last_seen: int | None
    address: str | None
    attributes: Mapping[str, str]
    tags: Mapping[str, str]
    actions: list[ActionView]
    decommissioned: int | None = None


class BundleView(msgspec.Struct):
    """A bundle. `size` is in bytes. Its file may be `missing` on the server, until it is published again."""

    id: int
    name: str
    version: str
    compatible: str
    size: int
    sha256: str
    created: int
    missing: bool = False


class CreatedAccessToken(msgspec.Struct):
    """An access token that was created, with its secret."""

    name: str
    token: str
    role: str
    expires: int


class TargetToken(msgspec.Struct):
    """The own token of a device (DDI)."""

    token: str


class EmptyAnswer(msgspec.Struct):
    """The answer to an order that has nothing to say."""


class ApiProblem(msgspec.Struct):
    """Why a request is refused."""

    code: str
    message: str
