"""How a rollout goes on: by orders of operators, by reports of devices, and by time. Each runs in one transaction."""

from dataclasses import replace

from sqlalchemy import Connection, select, update

from osbuild.fleet import actions as device_actions
from osbuild.fleet.actions import Assignment
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.judgement import GroupCounts, Judgement, has_too_many_failures, judge_group
from osbuild.fleet.rollout.plan_text import format_duration
from osbuild.fleet.rollout.rows import (
    Rollout,
    RolloutGroup,
    list_rollouts,
    read_groups,
    read_rollout,
)
from osbuild.fleet.rollout.standing import forgive_members, mark_overdue, renew_members
from osbuild.fleet.states import ENDED, ROLLOUT_ENDED, ActionState, GroupState, RolloutState
from osbuild.fleet.tables import actions, devices, rollout_groups, rollout_members, rollouts
from osbuild.shared.counts import format_count


def start_rollout(connection: Connection, rollout: Rollout, now: int) -> None:
    """Start a rollout that waits for that. Raises `Refused`."""
    _need_state(rollout, "started", RolloutState.ready, RolloutState.scheduled)
    _set_rollout(connection, rollout, RolloutState.running)
    advance_rollout(connection, rollout.id, now)


def pause_rollout(connection: Connection, rollout: Rollout, reason: str) -> None:
    """Start no further group. Devices that have their orders go on. Raises `Refused`."""
    _need_state(rollout, "paused", RolloutState.running)
    _set_rollout(connection, rollout, RolloutState.paused, reason)


def resume_rollout(
    connection: Connection, rollout: Rollout, now: int, *, bundle: int | None = None, retry: bool = False
) -> None:
    """Go on with a paused rollout; what has failed until now does not count any more.

    With `bundle`, all devices that have not succeeded get that one from now on. With `retry`, those that have failed
    try again. Raises `Refused`.
    """
    _need_state(rollout, "resumed", RolloutState.paused)
    if bundle is not None:
        connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(bundle=bundle))
    _set_rollout(connection, rollout, RolloutState.running)
    mark_overdue(connection, now)
    changed = read_rollout(connection, rollout.id)
    for group in read_groups(connection, rollout.id):
        if group.state is GroupState.waiting:
            continue
        if bundle is not None:
            _assign_members(connection, changed, group, (ActionState.failed, *_open_states()), now)
        elif retry:
            _assign_members(connection, changed, group, (ActionState.failed,), now)
        forgive_members(connection, group.id)
    advance_rollout(connection, rollout.id, now)


def abort_rollout(connection: Connection, rollout: Rollout, reason: str, now: int) -> None:
    """End a rollout: its active actions are cancelled, and no group begins any more. Raises `Refused`."""
    if rollout.state in ROLLOUT_ENDED:
        raise Refused(409, "rollout-ended", f"the rollout {rollout.name} is {rollout.state}")
    active = select(actions.c.id, actions.c.device).where(actions.c.rollout == rollout.id, actions.c.active)
    for number, device in connection.execute(active).all():
        device_actions.begin_cancelling(connection, device_actions.read_action(connection, device, number), now)
    _set_rollout(connection, rollout, RolloutState.aborted, reason, ended=now)


def advance_rollout(connection: Connection, number: int, now: int) -> None:
    """Begin groups, pause or end a running rollout, as what was reported says. May be called at any time."""
    mark_overdue(connection, now)
    while True:
        rollout = read_rollout(connection, number)
        if rollout.state is not RolloutState.running or not _advance_once(connection, rollout, now):
            return


def advance_by_time(connection: Connection, now: int) -> None:
    """Start scheduled rollouts whose time has come, and begin groups whose pause is over."""
    mark_overdue(connection, now)
    for rollout in list_rollouts(connection, (RolloutState.scheduled, RolloutState.running)):
        if rollout.state is RolloutState.running:
            advance_rollout(connection, rollout.id, now)
        elif rollout.start is not None and rollout.start <= now:
            start_rollout(connection, rollout, now)


def explain_pause(group: RolloutGroup, counts: GroupCounts) -> str:
    """Return why a group pauses its rollout."""
    text = f"group {group.position}: {counts.failed} of {counts.counted} devices have failed"
    if counts.overdue and group.deadline is not None:
        text += f", {counts.overdue} have not reported an end within {format_duration(group.deadline)}"
    if has_too_many_failures(counts, group.error):
        return f"{text}; the limit is {group.error} %"
    return f"{text}, {counts.cancelled} were told to do something else; {group.success} % must succeed"


def _advance_once(connection: Connection, rollout: Rollout, now: int) -> bool:
    """Make one step. Return whether there may be another one."""
    groups = read_groups(connection, rollout.id)
    pending = overdue = 0
    for group in (group for group in groups if group.state is not GroupState.waiting):
        counts = group.counts
        pending, overdue = pending + counts.pending, overdue + counts.overdue
        if group.state is GroupState.succeeded:  # its remaining devices may still fail
            judgement = Judgement.failed if has_too_many_failures(counts, group.error) else Judgement.wait
        else:
            over = group.started is not None and now >= group.started + group.pause * 1000
            judgement = judge_group(counts, group.success, group.error, minimum_time_over=over)
        if judgement is Judgement.failed:
            _set_rollout(connection, rollout, RolloutState.paused, explain_pause(group, counts))
            return False
        if judgement is Judgement.succeeded:
            _set_group(connection, group, GroupState.succeeded)
            return True
    if any(group.state is GroupState.running for group in groups):
        return False
    following = next((group for group in groups if group.state is GroupState.waiting), None)
    if following is not None:
        connection.execute(update(rollout_groups).where(rollout_groups.c.id == following.id).values(started=now))
        _set_group(connection, following, GroupState.running)
        _assign_members(connection, rollout, following, (None,), now)
        return True
    if not pending:
        have = "has" if overdue == 1 else "have"
        reason = f"{format_count(overdue, 'device')} {have} not reported an end before the deadline; the orders stand"
        _set_rollout(connection, rollout, RolloutState.finished, reason if overdue else "", ended=now)
    return False


def _assign_members(
    connection: Connection, rollout: Rollout, group: RolloutGroup, states: tuple[ActionState | None, ...], now: int
) -> None:
    """Assign the rollout's bundle to devices of a group whose newest action has one of `states` (None: no action)."""
    chosen = (
        select(rollout_members.c.device, actions.c.state, devices.c.auto_confirm)
        .select_from(rollout_members.join(devices, rollout_members.c.device == devices.c.id))
        .outerjoin(actions, rollout_members.c.action == actions.c.id)
        .where(rollout_members.c.group == group.id)
    )
    assignment = Assignment(rollout.bundle, rollout.kind, rollout.weight, False, rollout.id, rollout.maintenance)
    assignments = {
        device: replace(assignment, confirm=rollout.confirm and not automatic)
        for device, state, automatic in connection.execute(chosen)
        if state in states
    }
    device_actions.assign_bundles(connection, assignments, now)
    renew_members(connection, group.id, None if group.deadline is None else now + group.deadline * 1000)


def _open_states() -> tuple[ActionState, ...]:
    return tuple(state for state in ActionState if state not in ENDED)


def _need_state(rollout: Rollout, verb: str, *states: RolloutState) -> None:
    if rollout.state not in states:
        message = f"the rollout {rollout.name} is {rollout.state}: only one that is {' or '.join(states)} can be {verb}"
        raise Refused(409, "rollout-state", message)


def _set_rollout(
    connection: Connection, rollout: Rollout, state: RolloutState, reason: str = "", *, ended: int | None = None
) -> None:
    values = {"state": state, "reason": reason, "ended": ended}
    connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(values))


def _set_group(connection: Connection, group: RolloutGroup, state: GroupState) -> None:
    connection.execute(update(rollout_groups).where(rollout_groups.c.id == group.id).values(state=state))
