"""What the management API receives and sends. Times are in milliseconds since 1970."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.states import ActionKind, ActionState, GroupState, RolloutState

T = TypeVar("T")


class NewAction(msgspec.Struct, forbid_unknown_fields=True):
    """An order to install a bundle."""

    bundle: int
    kind: ActionKind = ActionKind.forced
    confirm: bool = False


class NewEnrolmentToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token to create. `seconds` is how long it is valid."""

    uses: int = 1
    seconds: int = 24 * 3600
    note: str = ""


class NewGroup(msgspec.Struct, forbid_unknown_fields=True):
    """A group of a rollout to create, see `GroupPlan`."""

    percent: float
    success: int = 100
    error: int = 1
    pause: int = 0


class NewRollout(msgspec.Struct, forbid_unknown_fields=True):
    """A rollout to create, see `RolloutPlan`. With `now`, it starts at once."""

    name: str
    bundle: int
    groups: list[NewGroup]
    selection: dict[str, str] = {}
    kind: ActionKind = ActionKind.forced
    weight: int = 1000
    confirm: bool = False
    start: int | None = None
    now: bool = False

    def plan(self) -> RolloutPlan:
        """Return the plan, which is not checked yet."""
        groups = tuple(GroupPlan(group.percent, group.success, group.error, group.pause) for group in self.groups)
        return RolloutPlan(
            self.name, self.bundle, self.selection, groups, self.kind, self.weight, self.confirm, self.start
        )


class ResumeOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How a paused rollout goes on: with another bundle, or with those again that have failed."""

    bundle: int | None = None
    retry: bool = False


class GroupView(msgspec.Struct):
    """A group of a rollout. Thresholds are percent, `pause` is in seconds."""

    state: GroupState
    devices: int
    succeeded: int
    failed: int
    cancelled: int
    success: int
    error: int
    pause: int


class RolloutView(msgspec.Struct):
    """A rollout with its groups. `reason` says why it is paused or aborted."""

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


class Preview(msgspec.Struct):
    """How many devices each group of a rollout would have, and the names of the first ones."""

    groups: list[int]
    first: list[str]


class ActionView(msgspec.Struct):
    """An action of a device."""

    id: int
    bundle: str
    kind: ActionKind
    state: ActionState
    active: bool
    created: int
    ended: int | None
    messages: list[str]


class DeviceView(msgspec.Struct):
    """A device, with its newest actions first."""

    name: str
    created: int
    last_seen: int | None
    address: str | None
    attributes: Mapping[str, str]
    actions: list[ActionView]


class BundleView(msgspec.Struct):
    """A bundle. `size` is in bytes."""

    id: int
    name: str
    version: str
    compatible: str
    size: int
    sha256: str
    created: int


class ApiProblem(msgspec.Struct):
    """Why a request is refused."""

    code: str
    message: str


def parse_message(body: bytes, kind: type[T]) -> T:
    """Return the message in a body. Raises `Refused`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(400, "bad-body", f"the body can't be read: {error}") from error
