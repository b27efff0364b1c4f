"""Rollouts and their groups as they are stored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from osbuild.fleet.actions import read_history
from osbuild.fleet.database import insert_row
from osbuild.fleet.maintenance import MaintenanceSchedule, decode_schedule, encode_schedule
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.rollout.judgement import GroupCounts
from osbuild.fleet.rollout.plan import RolloutPlan
from osbuild.fleet.rollout.standing import count_members
from osbuild.fleet.states import ActionKind, ActionState, GroupState, MemberStanding, RolloutState
from osbuild.fleet.tables import actions, devices, rollout_groups, rollout_members, rollouts

BY_ID = PreparedRead(select(rollouts).where(rollouts.c.id == bindparam("number")))
BY_NAME = PreparedRead(select(rollouts).where(rollouts.c.name == bindparam("rollout_name")))
GROUPS = PreparedRead(
    select(rollout_groups)
    .where(rollout_groups.c.rollout == bindparam("number"))
    .order_by(rollout_groups.c.position)
)  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """A row of the table `rollouts`."""

    id: int
    name: str
    bundle: int
    kind: ActionKind
    weight: int
    confirm: bool
    selection: Mapping[str, str]
    state: RolloutState
    reason: str
    created: int
    start: int | None
    ended: int | None
    maintenance: MaintenanceSchedule | None


@dataclass(frozen=True)
class RolloutGroup:
    """A row of the table `rollout_groups`. Thresholds are percent, `pause` and `deadline` are in seconds."""

    id: int
    rollout: int
    position: int
    success: int
    error: int
    pause: int
    state: GroupState
    started: int | None
    deadline: int | None
    counts: GroupCounts


def insert_rollout(connection: Connection, plan: RolloutPlan, parts: Sequence[Sequence[int]], now: int) -> Rollout:
    """Store a rollout with the devices of each group. Raises `Refused` if its name is used."""
    if connection.execute(select(rollouts.c.id).where(rollouts.c.name == plan.name)).first():
        raise Refused(409, "rollout-exists", f"there is a rollout named {plan.name} already")
    state = RolloutState.ready if plan.start is None else RolloutState.scheduled
    number = insert_row(connection, rollouts, {
        "name": plan.name, "bundle": plan.bundle, "kind": plan.kind, "weight": plan.weight, "confirm": plan.confirm,
        "selection": json.dumps(dict(plan.selection)), "state": state, "created": now, "start": plan.start,
        "maintenance": encode_schedule(plan.maintenance),
    })  # fmt: skip
    for position, (group, part) in enumerate(zip(plan.groups, parts, strict=True), 1):
        row = insert_row(connection, rollout_groups, {
            "rollout": number, "position": position, "success": group.success, "error": group.error,
            "pause": group.pause, "deadline": group.deadline, "state": GroupState.waiting,
        })  # fmt: skip
        members = [{"device": device, "rollout": number, "group": row} for device in part]
        connection.execute(insert(rollout_members), members)
        count_members(connection, row)
    return read_rollout(connection, number)


def read_rollout(connection: Connection, number: int) -> Rollout:
    """Return the rollout with the id `number`, which exists."""
    return _rollout(BY_ID.one(connection, number=number))


def find_rollout(connection: Connection, name: str) -> Rollout:
    """Return the rollout `name`. Raises `Refused`."""
    values = BY_NAME.first(connection, rollout_name=name)
    if values is None:
        raise not_found(f"there is no rollout {name}")
    return _rollout(values)


def list_rollouts(connection: Connection, states: Sequence[RolloutState] = tuple(RolloutState)) -> list[Rollout]:
    """Return the rollouts in one of `states`, the newest first."""
    chosen = select(rollouts).where(rollouts.c.state.in_(states)).order_by(rollouts.c.id.desc())
    return [_rollout(values) for values in connection.execute(chosen).mappings()]


def read_groups(connection: Connection, rollout: int) -> list[RolloutGroup]:
    """Return the groups of a rollout, in their order."""
    return [_group(values) for values in GROUPS.rows(connection, number=rollout)]


def overdue_devices(connection: Connection, rollout: Rollout, now: int, most: int) -> list[tuple[str, int | None]]:
    """Return the names of devices that are overdue, with the time of their last contact: at most `most`.

    They include those that were forgiven.
    """
    late = actions.c.active & (rollout_members.c.due <= now)
    chosen = (
        select(devices.c.name, devices.c.last_seen)
        .select_from(rollout_members.join(actions, rollout_members.c.action == actions.c.id))
        .join(devices, rollout_members.c.device == devices.c.id)
        .where(rollout_members.c.rollout == rollout.id, late)
        .order_by(devices.c.name)
        .limit(most)
    )
    return [(name, last_seen) for name, last_seen in connection.execute(chosen)]


def failed_devices(connection: Connection, rollout: Rollout, most: int) -> list[tuple[str, str]]:
    """Return the names of devices whose newest action has failed, with the last message: at most `most`."""
    chosen = (
        select(devices.c.name, actions.c.id)
        .select_from(rollout_members.join(actions, rollout_members.c.action == actions.c.id))
        .join(devices, rollout_members.c.device == devices.c.id)
        .where(rollout_members.c.rollout == rollout.id, actions.c.state == ActionState.failed)
        .order_by(devices.c.name)
        .limit(most)
    )
    return [
        (name, next(iter(read_history(connection, action, 1)), "no reason was reported"))
        for name, action in connection.execute(chosen).all()
    ]


def _group(values: dict[str, Any]) -> RolloutGroup:
    counts = GroupCounts(**{standing.value: values.pop(standing.value) for standing in MemberStanding})
    return RolloutGroup(**{**values, "state": GroupState(values["state"]), "counts": counts})


def _rollout(values: Mapping[Any, Any]) -> Rollout:
    converted = {
        "kind": ActionKind(values["kind"]), "state": RolloutState(values["state"]),
        "selection": json.loads(values["selection"]), "maintenance": decode_schedule(values["maintenance"]),
    }  # fmt: skip
    return Rollout(**{**values, **converted})
