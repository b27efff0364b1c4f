"""Rollouts and their groups as they are stored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, func, insert, select

from osbuild.fleet.actions import read_history
from osbuild.fleet.database import insert_row
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.rollout.judgement import GroupCounts
from osbuild.fleet.rollout.plan import RolloutPlan
from osbuild.fleet.states import ActionKind, ActionState, GroupState, RolloutState
from osbuild.fleet.tables import actions, devices, rollout_groups, rollout_members, rollouts


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


@dataclass(frozen=True)
class RolloutGroup:
    """A row of the table `rollout_groups`. Thresholds are percent, `pause` is in seconds."""

    id: int
    rollout: int
    position: int
    success: int
    error: int
    pause: int
    state: GroupState
    started: int | None
    forgiven: int


def insert_rollout(connection: Connection, plan: RolloutPlan, parts: Sequence[Sequence[int]], now: int) -> Rollout:
    """Store a rollout with the devices of each group. Raises `Refused` if its name is used."""
    if connection.execute(select(rollouts.c.id).where(rollouts.c.name == plan.name)).first():
        raise Refused(409, "rollout-exists", f"there is a rollout named {plan.name} already")
    state = RolloutState.ready if plan.start is None else RolloutState.scheduled
    number = insert_row(connection, rollouts, {
        "name": plan.name, "bundle": plan.bundle, "kind": plan.kind, "weight": plan.weight, "confirm": plan.confirm,
        "selection": json.dumps(dict(plan.selection)), "state": state, "created": now, "start": plan.start,
    })  # fmt: skip
    for position, (group, part) in enumerate(zip(plan.groups, parts, strict=True), 1):
        row = insert_row(connection, rollout_groups, {
            "rollout": number, "position": position, "success": group.success, "error": group.error,
            "pause": group.pause, "state": GroupState.waiting,
        })  # fmt: skip
        members = [{"device": device, "rollout": number, "group": row} for device in part]
        connection.execute(insert(rollout_members), members)
    return read_rollout(connection, number)


def read_rollout(connection: Connection, number: int) -> Rollout:
    """Return the rollout with the id `number`, which exists."""
    return _rollout(connection.execute(select(rollouts).where(rollouts.c.id == number)).one())


def find_rollout(connection: Connection, name: str) -> Rollout:
    """Return the rollout `name`. Raises `Refused`."""
    row = connection.execute(select(rollouts).where(rollouts.c.name == name)).first()
    if row is None:
        raise not_found(f"there is no rollout {name}")
    return _rollout(row)


def list_rollouts(connection: Connection, states: Sequence[RolloutState] = tuple(RolloutState)) -> list[Rollout]:
    """Return the rollouts in one of `states`, the newest first."""
    chosen = select(rollouts).where(rollouts.c.state.in_(states)).order_by(rollouts.c.id.desc())
    return [_rollout(row) for row in connection.execute(chosen)]


def read_groups(connection: Connection, rollout: int) -> list[RolloutGroup]:
    """Return the groups of a rollout, in their order."""
    chosen = select(rollout_groups).where(rollout_groups.c.rollout == rollout).order_by(rollout_groups.c.position)
    return [
        RolloutGroup(**{**row._mapping, "state": GroupState(row._mapping["state"])})
        for row in connection.execute(chosen)
    ]


def count_group(connection: Connection, group: RolloutGroup) -> GroupCounts:
    """Return what the newest actions of a group's devices have come to."""
    chosen = (
        select(actions.c.state, func.count())
        .select_from(rollout_members.outerjoin(actions, rollout_members.c.action == actions.c.id))
        .where(rollout_members.c.group == group.id)
        .group_by(actions.c.state)
    )
    found = {row[0]: int(row[1]) for row in connection.execute(chosen)}
    succeeded = found.get(ActionState.finished, 0) + found.get(ActionState.downloaded, 0)
    return GroupCounts(
        sum(found.values()), succeeded, found.get(ActionState.failed, 0), found.get(ActionState.cancelled, 0),
        group.forgiven,
    )  # fmt: skip


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


def _rollout(row: Row[tuple[object, ...]]) -> Rollout:
    values = dict(row._mapping)
    values |= {"kind": ActionKind(values["kind"]), "state": RolloutState(values["state"])}
    return Rollout(**{**values, "selection": json.loads(values["selection"])})
