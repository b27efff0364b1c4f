"""The standing of each device of a rollout, and their numbers, which are in the row of the group.

Both change in the transaction that changes the device's action. So a group is judged without counting its devices.
"""

from functools import cache

from sqlalchemy import Connection, Update, bindparam, func, select, update

from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.states import ActionState, MemberStanding
from osbuild.fleet.tables import actions, rollout_groups, rollout_members

OF_ENDED = {
    ActionState.finished: MemberStanding.succeeded, ActionState.downloaded: MemberStanding.succeeded,
    ActionState.failed: MemberStanding.failed, ActionState.cancelled: MemberStanding.cancelled,
}  # fmt: skip
"""the standing of a device whose newest action has ended, unless it was forgiven"""
UNSUCCESSFUL = (MemberStanding.failed, MemberStanding.cancelled, MemberStanding.overdue)
_key = (rollout_members.c.device == bindparam("device_id"), rollout_members.c.rollout == bindparam("rollout_id"))
MEMBER = PreparedRead(
    select(rollout_members.c.group, rollout_members.c.standing)
    .where(*_key, rollout_members.c.action == bindparam("action_id"))
)  # fmt: skip
SET_STANDING = update(rollout_members).where(*_key).values(standing=bindparam("changed"))
NEWLY_OVERDUE = PreparedRead(
    select(rollout_members.c.group).distinct()
    .where(rollout_members.c.standing == bindparam("pending"), rollout_members.c.due <= bindparam("time"))
)  # fmt: skip


def end_member(connection: Connection, action: int, device: int, rollout: int, state: ActionState) -> None:
    """Follow an action of a rollout that has ended. Only the newest action of the device counts."""
    member = MEMBER.first(connection, device_id=device, rollout_id=rollout, action_id=action)
    if member is None:
        return
    before, after = MemberStanding(member["standing"]), OF_ENDED[state]
    if before is MemberStanding.forgiven and after is not MemberStanding.succeeded:
        return
    connection.execute(SET_STANDING, {"device_id": device, "rollout_id": rollout, "changed": after})
    connection.execute(_move_one(before, after), {"group_id": member["group"]})


def mark_overdue(connection: Connection, now: int) -> None:
    """Give the devices of all rollouts that have not reported an end before their deadline that standing."""
    for row in list(NEWLY_OVERDUE.rows(connection, pending=MemberStanding.pending, time=now)):
        late = (rollout_members.c.standing == MemberStanding.pending) & (rollout_members.c.due <= now)
        chosen = update(rollout_members).where(rollout_members.c.group == row["group"], late)
        connection.execute(chosen.values(standing=MemberStanding.overdue))
        count_members(connection, row["group"])


def renew_members(connection: Connection, group: int, due: int | None) -> None:
    """Follow new actions of a group's devices, which are overdue at `due`. Their older ones do not count any more."""
    of_member = (actions.c.device == rollout_members.c.device) & (actions.c.rollout == rollout_members.c.rollout)
    newest = select(func.max(actions.c.id)).where(of_member).scalar_subquery()
    chosen = (rollout_members.c.group == group) & (func.coalesce(rollout_members.c.action, 0) < newest)
    values = {"action": newest, "standing": MemberStanding.pending, "due": due}
    connection.execute(update(rollout_members).where(chosen).values(values))
    count_members(connection, group)


def forgive_members(connection: Connection, group: int) -> None:
    """Let the devices of a group that are unsuccessful until now count no more, until they succeed."""
    chosen = (rollout_members.c.group == group) & rollout_members.c.standing.in_(UNSUCCESSFUL)
    connection.execute(update(rollout_members).where(chosen).values(standing=MemberStanding.forgiven))
    count_members(connection, group)


def count_members(connection: Connection, group: int) -> None:
    """Count the devices of a group, after many of them have changed."""
    chosen = (
        select(rollout_members.c.standing, func.count())
        .where(rollout_members.c.group == group)
        .group_by(rollout_members.c.standing)
    )
    numbers = dict.fromkeys((standing.value for standing in MemberStanding), 0)
    numbers |= {standing: number for standing, number in connection.execute(chosen)}
    connection.execute(update(rollout_groups).where(rollout_groups.c.id == group).values(numbers))


@cache
def _move_one(before: MemberStanding, after: MemberStanding) -> Update:
    columns = rollout_groups.c
    values = {before: columns[before] - 1, after: columns[after] + 1}
    return update(rollout_groups).where(columns.id == bindparam("group_id")).values(values)
