"""Creates a rollout in a hawkBit, with the selection and the groups that `fleet rollout create` knows."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from osbuild.fleet.hawkbit.management import HawkbitManagement, quote_value
from osbuild.fleet.rollout import plan_text
from osbuild.fleet.rollout.selection import NAME
from osbuild.fleet.states import ActionKind
from osbuild.shared.errors import Error, UsageError

ATTRIBUTE = re.compile(r"[A-Za-z0-9_.-]+")
COMPATIBLE = "compatible"
KINDS = {ActionKind.forced: "forced", ActionKind.soft: "soft", ActionKind.download_only: "downloadonly"}
PATIENCE = 300.0  # seconds in which hawkBit must create the groups
POLL = 1.0  # seconds
SHARES = "write percentages such as 10,40,50"


class HawkbitRollout(msgspec.Struct, rename="camel"):
    """A rollout of hawkBit."""

    id: int
    name: str
    status: str
    total_targets: int = 0


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """A rollout to create. `shares` are the percentages of its groups, `success` and `error` their thresholds.

    A device is selected if it says that it is a `compatible`, and matches all patterns of `selection`.
    """

    name: str
    compatible: str
    selection: Mapping[str, str]
    shares: Sequence[float]
    success: int
    error: int
    kind: ActionKind = ActionKind.forced
    confirm: bool = False


def create_hawkbit_rollout(
    management: HawkbitManagement, request: RolloutRequest, distribution_set: int, *, start: bool
) -> HawkbitRollout:
    """Create a rollout, and with `start` start it when hawkBit has created its groups. Raises `Error`."""
    document = {
        "name": request.name, "distributionSetId": distribution_set,
        "targetFilterQuery": make_filter(request), "type": KINDS[request.kind],
        "confirmationRequired": request.confirm, "groups": make_groups(request),
    }  # fmt: skip
    rollout = management.create("/rollouts", document, HawkbitRollout)
    deadline = time.monotonic() + PATIENCE
    while start and rollout.status == "creating":
        if time.monotonic() > deadline:
            hint = f"start the rollout {request.name} in hawkBit when it is ready"
            raise Error(f"hawkBit has not created the groups within {PATIENCE:g} s", where=management.url, hint=hint)
        time.sleep(POLL)
        rollout = management.read(f"/rollouts/{rollout.id}", HawkbitRollout)
    if start:
        management.call("POST", f"/rollouts/{rollout.id}/start")
        rollout = management.read(f"/rollouts/{rollout.id}", HawkbitRollout)
    return rollout


def check_request(management: HawkbitManagement, request: RolloutRequest) -> None:
    """Raise `Error` if hawkBit has a rollout with this name already, `UsageError` if it cannot do what is asked for."""
    make_filter(request)
    make_groups(request)
    rollouts = management.find("/rollouts", HawkbitRollout, name=request.name)
    if any(rollout.name == request.name for rollout in rollouts):
        hint = "choose another name"
        raise Error(f"there is a rollout named {request.name} already", where=management.url, hint=hint)


def parse_selection(patterns: Sequence[str]) -> dict[str, str]:
    """Return patterns by attribute, from texts such as version=1.0.*. Raises `UsageError`."""
    try:
        return plan_text.parse_selection(patterns)
    except ValueError as error:
        raise UsageError(str(error)) from error


def parse_shares(text: str) -> list[float]:
    """Return percentages, from a text such as 10,40,50. Raises `UsageError`."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"these are not percentages: {text}", hint=SHARES) from error


def make_filter(request: RolloutRequest) -> str:
    """Return the query (RSQL) for the devices of a rollout. Raises `UsageError`."""
    selection = {COMPATIBLE: request.compatible, **request.selection}
    return ";".join(make_condition(name, pattern) for name, pattern in selection.items())


def make_condition(name: str, pattern: str) -> str:
    """Return the part of a query for one pattern: `*`, and alternatives between commas. Raises `UsageError`."""
    if not ATTRIBUTE.fullmatch(name):
        hint = "hawkBit selects by attributes whose names have only letters, digits and _.-"
        raise UsageError(f"hawkBit cannot select by this attribute: {name}", hint=hint)
    if re.search(r"[?\[\]]", pattern):
        raise UsageError(f"hawkBit cannot match this pattern: {pattern}", hint="write a pattern with only `*`")
    field = "controllerId" if name == NAME else f"attribute.{name}"
    parts = [part.strip() for part in pattern.split(",")]
    if not all(parts):
        raise UsageError(f"the pattern for {name} has an empty alternative: {pattern}")
    conditions = ",".join(f"{field}=={quote_value(part)}" for part in parts)
    return f"({conditions})" if len(parts) > 1 else conditions


def make_groups(request: RolloutRequest) -> list[dict[str, Any]]:
    """Return the groups of a rollout. hawkBit counts each percentage of the devices that earlier groups leave.

    Raises `UsageError` if the groups are not all devices.
    """
    total = sum(request.shares)
    if not (all(share > 0 for share in request.shares) and abs(total - 100) < 1e-6):
        message = f"the groups have {total:g} percent of the devices together, and must have 100"
        raise UsageError(message, hint=SHARES)
    left, groups = 100.0, []
    for number, share in enumerate(request.shares, 1):
        last = number == len(request.shares)
        groups.append(
            {
                "name": f"group {number}", "targetPercentage": 100.0 if last else share / left * 100,
                "successCondition": {"condition": "THRESHOLD", "expression": str(request.success)},
                "successAction": {"action": "NEXTGROUP", "expression": ""},
                "errorCondition": {"condition": "THRESHOLD", "expression": str(request.error)},
                "errorAction": {"action": "PAUSE", "expression": ""},
            }
        )  # fmt: skip
        left -= share
    return groups
