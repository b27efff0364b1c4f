"""Actions: a device is told to install a bundle, and reports how that goes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from osbuild.fleet.database import insert_row
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.maintenance import MaintenanceSchedule, decode_schedule, encode_schedule
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.rollout.standing import end_member
from osbuild.fleet.states import ENDED, ActionKind, ActionState, Execution, Finished
from osbuild.fleet.tables import actions, bundles, devices, reports

MOST_REPORTS = 1000  # of one action, without the last one
MOST_MESSAGES = 50  # of one report
MOST_INSTALLED = 20  # bundles that a device has otherwise installed in 24 hours
DAY = 24 * 3600 * 1000  # milliseconds
LONGEST_MESSAGE = 512  # characters; the rest is cut off
ACTIVE = PreparedRead(select(actions).where(actions.c.device == bindparam("device_id"), actions.c.active))
BY_ID = PreparedRead(
    select(actions).where(actions.c.id == bindparam("number"), actions.c.device == bindparam("device_id"))
)
COUNT_REPORTS = PreparedRead(
    select(func.count().label("number")).select_from(reports).where(reports.c.action == bindparam("action_id"))
)
# Once: SQLAlchemy needs long to construct a statement.
INSERT_REPORT = insert(reports)
SET_STATE = (
    update(actions)
    .where(actions.c.id == bindparam("number"))
    .values(state=bindparam("new_state"), active=bindparam("is_active"), ended=bindparam("end"))
)
SET_INSTALLED = (
    update(devices)
    .where(devices.c.id == bindparam("device_id"))
    .values(installed_action=bindparam("number"), attributes_wanted=True)
)
LAPSED = "cancelled: the maintenance windows are over"
DOWNLOADING = "downloads the whole bundle"
WEIGHT = 1000
"""the weight of an action if its rollout sets none, as in hawkBit"""


@dataclass(frozen=True)
class UpdateAction:
    """A row of the table `actions`."""

    id: int
    device: int
    bundle: int
    kind: ActionKind
    state: ActionState
    active: bool
    weight: int
    created: int
    ended: int | None
    rollout: int | None
    maintenance: MaintenanceSchedule | None
    lease: int | None
    fetched: bool


@dataclass(frozen=True)
class DeviceReport:
    """What a device reports about an action. `time` is that of its clock, in milliseconds since 1970."""

    execution: Execution
    finished: Finished
    code: int | None = None
    messages: tuple[str, ...] = ()
    time: int | None = None


@dataclass(frozen=True)
class Assignment:
    """An order to install a bundle. `rollout` is the id of the rollout that it belongs to.

    With `maintenance`, it is installed only in a maintenance window.
    """

    bundle: int
    kind: ActionKind = ActionKind.forced
    weight: int = WEIGHT
    confirm: bool = False
    rollout: int | None = None
    maintenance: MaintenanceSchedule | None = None


def assign_bundle(connection: Connection, device: int, assignment: Assignment, now: int) -> int:
    """Tell a device to install a bundle. Return the id of the action.

    An action of the device that was active is cancelled, unless it has a higher weight: then the new one is next. If
    the device may have begun with the old one, that is a state of its own, until the device agrees.
    """
    return insert_row(connection, actions, _begin_action(connection, device, assignment, now))


def assign_bundles(connection: Connection, assignments: Mapping[int, Assignment], now: int) -> None:
    """Tell many devices to install bundles, as `assign_bundle` does. The keys are the ids of the devices."""
    begun = [_begin_action(connection, device, assignment, now) for device, assignment in assignments.items()]
    if begun:
        connection.execute(insert(actions), begun)


def begin_cancelling(connection: Connection, action: UpdateAction, now: int) -> None:
    """Cancel an active action. One that waits for its confirmation is unknown to the device, and ends at once."""
    if action.state is ActionState.waiting:
        _set_state(connection, action, ActionState.cancelled, now)
    elif action.state is ActionState.running:
        _set_state(connection, action, ActionState.cancelling, now)


def cancel_lapsed(connection: Connection, action: UpdateAction, now: int) -> None:
    """Cancel an action whose maintenance windows are all over, unless its device has refused that already."""
    tried = select(reports.c.id).where(
        reports.c.action == action.id, reports.c.state == ActionState.cancelling,
        reports.c.execution == Execution.canceled,
    )  # fmt: skip
    if (
        read_action(connection, action.device, action.id).state is ActionState.running
        and not connection.execute(tried.limit(1)).first()
    ):
        report = DeviceReport(Execution.canceled, Finished.none, messages=(LAPSED,))
        _store_report(connection, action, report, ActionState.cancelling, now)


def record_download(connection: Connection, action: UpdateAction, now: int) -> None:
    """Store that a device downloads the whole bundle at once, unless too much is stored already."""
    if count_reports(connection, action.id) < MOST_REPORTS:
        report = DeviceReport(Execution.download, Finished.none, messages=(DOWNLOADING,))
        _store_report(connection, action, report, action.state, now)


def end_action(connection: Connection, action: UpdateAction, now: int) -> None:
    """End an action of a device that is not asked any more."""
    _set_state(connection, action, ActionState.cancelled, now)


def active_actions(connection: Connection, device: int) -> list[UpdateAction]:
    """Return the active actions of a device. The first one is what the device is told.

    Those that are being cancelled are first, then those of the highest weight, then the oldest ones.
    """
    unsorted = [_action(values) for values in ACTIVE.rows(connection, device_id=device)]
    return sorted(unsorted, key=lambda action: (action.state is not ActionState.cancelling, -action.weight, action.id))


def newest_actions(connection: Connection, device: int, most: int) -> list[UpdateAction]:
    """Return the actions of a device, the newest first: at most `most` of them."""
    chosen = select(actions).where(actions.c.device == device).order_by(actions.c.id.desc()).limit(most)
    return [_action(values) for values in connection.execute(chosen).mappings()]


def read_action(connection: Connection, device: int, number: int) -> UpdateAction:
    """Return the action `number` of a device. Raises `Refused` if the device does not have it."""
    values = BY_ID.first(connection, number=number, device_id=device)
    if values is None:
        raise not_found(f"the device has no action {number}")
    return _action(values)


def report_update(connection: Connection, device: int, number: int, report: DeviceReport, now: int) -> ActionState:
    """Store what a device reports about an update, and return the new state of the action. Raises `Refused`."""
    action = _reported_action(connection, device, number, report)
    state: ActionState = action.state
    if report.execution is Execution.closed:
        # Also while the action is being cancelled: the device was faster.
        state = ActionState.failed if report.finished is Finished.failure else ActionState.finished
    elif report.execution is Execution.downloaded and action.kind is ActionKind.download_only:
        state = ActionState.downloaded
    _store_report(connection, action, report, state, now)
    if state is ActionState.finished:
        # A new version may change what the device says about itself.
        connection.execute(SET_INSTALLED, {"device_id": device, "number": action.id})
    return state


def report_cancelling(connection: Connection, device: int, number: int, report: DeviceReport, now: int) -> ActionState:
    """Store how a device answers to a cancellation, and return the new state of the action. Raises `Refused`."""
    before = read_action(connection, device, number).state
    if before is ActionState.cancelled:
        return before  # the device repeats its report, because an answer was lost
    if before is not ActionState.cancelling:
        raise Refused(405, "not-cancelling", f"the action {number} is not being cancelled")
    action = _reported_action(connection, device, number, report)
    state: ActionState = action.state
    if report.execution is Execution.rejected or (
        report.execution is Execution.closed and report.finished is Finished.failure
    ):
        state = ActionState.running
    elif report.execution is Execution.closed:
        state = ActionState.cancelled
    _store_report(connection, action, report, state, now)
    return state


def confirm_action(connection: Connection, device: int, number: int, report: DeviceReport, now: int) -> ActionState:
    """Store that a device has confirmed an action (`proceeding`), or denied it (`rejected`). Raises `Refused`."""
    action = read_action(connection, device, number)
    if not action.active:
        raise Refused(410, "action-ended", f"the action {number} has ended: {action.state}")
    if action.state is not ActionState.waiting:
        raise not_found(f"the action {number} does not wait for a confirmation")
    state = ActionState.running if report.execution is Execution.proceeding else ActionState.waiting
    _check_size(connection, number, report, last=state is not action.state)
    _store_report(connection, action, report, state, now)
    return state


def set_auto_confirm(connection: Connection, device: int, active: bool, now: int) -> None:
    """Confirm all actions of a device without asking it, those that wait too, or no longer do so."""
    connection.execute(update(devices).where(devices.c.id == device).values(auto_confirm=active))
    report = DeviceReport(Execution.proceeding, Finished.none, messages=("confirmed automatically",))
    for action in active_actions(connection, device) if active else ():
        if action.state is ActionState.waiting:
            _store_report(connection, action, report, ActionState.running, now)


def record_installed(connection: Connection, device: FleetDevice, title: tuple[str, str], now: int) -> bool:
    """Store that a device has the bundle of this name or `compatible`, and version, as a finished action.

    Returns whether that is news. Of bundles for several boards, it is the one for the device. Raises `Refused`.
    """
    named = select(bundles.c.id, bundles.c.compatible).where(
        or_(bundles.c.name == title[0], bundles.c.compatible == title[0]), bundles.c.version == title[1]
    )
    found = {str(row.compatible): int(row.id) for row in connection.execute(named)}
    if not found:
        raise not_found(f"there is no bundle {title[0]} {title[1]}")
    bundle = found.get(device.attributes.get("compatible", ""), min(found.values()))
    known = device.installed_action
    if known is not None and read_action(connection, device.id, known).bundle == bundle:
        return False
    own = select(func.count()).where(
        actions.c.device == device.id, actions.c.created > now - DAY, actions.c.state == ActionState.finished,
        actions.c.ended == actions.c.created,  # no action that the server has ordered is finished so soon
    )  # fmt: skip
    if connection.execute(own).scalar_one() >= MOST_INSTALLED:
        message = f"a device says at most {MOST_INSTALLED} times in 24 hours what it has installed"
        raise Refused(429, "too-many-installations", message)
    values = {
        "device": device.id, "bundle": bundle, "kind": ActionKind.forced, "state": ActionState.finished,
        "active": False, "weight": WEIGHT, "created": now, "ended": now,
    }  # fmt: skip
    number = insert_row(connection, actions, values)
    connection.execute(update(devices).where(devices.c.id == device.id).values(installed_action=number))
    return True


def read_history(connection: Connection, action: int, most: int) -> list[str]:
    """Return the messages that were reported about an action, the newest first: at most `most` of them."""
    chosen = select(reports.c.messages).where(reports.c.action == action).order_by(reports.c.id.desc()).limit(most)
    messages = [text for row in connection.execute(chosen) for text in reversed(json.loads(row[0]))]
    return messages[:most]


def count_reports(connection: Connection, action: int) -> int:
    """Return how many reports of an action are stored."""
    return int(COUNT_REPORTS.one(connection, action_id=action)["number"])


def _begin_action(connection: Connection, device: int, assignment: Assignment, now: int) -> dict[str, object]:
    """Cancel what a new action of a device replaces, and return the values of its row."""
    for old in active_actions(connection, device):
        if old.weight <= assignment.weight:
            begin_cancelling(connection, old, now)
    state = ActionState.waiting if assignment.confirm else ActionState.running
    return {
        "device": device, "bundle": assignment.bundle, "kind": assignment.kind, "state": state, "active": True,
        "weight": assignment.weight, "created": now, "rollout": assignment.rollout,
        "maintenance": encode_schedule(assignment.maintenance),
    }  # fmt: skip


def _reported_action(connection: Connection, device: int, number: int, report: DeviceReport) -> UpdateAction:
    action = read_action(connection, device, number)
    if action.state is ActionState.waiting:
        raise not_found(f"the action {number} waits for its confirmation")
    if not action.active:
        raise Refused(410, "action-ended", f"the action {number} has ended: {action.state}")
    _check_size(connection, number, report, last=report.execution is Execution.closed)
    return action


def _check_size(connection: Connection, number: int, report: DeviceReport, *, last: bool) -> None:
    """Raise `Refused` if a report of the action `number` is too large, or one too many and not the `last` one."""
    if len(report.messages) > MOST_MESSAGES:
        raise Refused(429, "too-many-messages", f"a report has at most {MOST_MESSAGES} messages")
    if not last and count_reports(connection, number) >= MOST_REPORTS:
        raise Refused(429, "too-many-reports", f"the action {number} has {MOST_REPORTS} reports already")


def _store_report(
    connection: Connection, action: UpdateAction, report: DeviceReport, state: ActionState, now: int
) -> None:
    # A device that was offline reports later. A time that cannot be right is that of a wrong clock.
    time = report.time if report.time is not None and action.created <= report.time <= now else now
    values = {
        "action": action.id, "time": time, "state": state, "execution": report.execution, "finished": report.finished,
        "code": report.code, "messages": json.dumps([text[:LONGEST_MESSAGE] for text in report.messages]),
    }  # fmt: skip
    connection.execute(INSERT_REPORT, values)
    if state is not action.state:
        _set_state(connection, action, state, now)


def _set_state(connection: Connection, action: UpdateAction, state: ActionState, now: int) -> None:
    ended = state in ENDED
    values = {"number": action.id, "new_state": state, "is_active": not ended, "end": now if ended else None}
    connection.execute(SET_STATE, values)
    if ended and action.rollout is not None:
        end_member(connection, action.id, action.device, action.rollout, state)


def _action(values: Mapping[Any, Any]) -> UpdateAction:
    converted = {
        "kind": ActionKind(values["kind"]), "state": ActionState(values["state"]),
        "maintenance": decode_schedule(values["maintenance"]),
    }  # fmt: skip
    return UpdateAction(**{**values, **converted})
