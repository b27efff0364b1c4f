"""The condition of a device, as the page shows and counts it. Each device has one."""

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import Connection, exists, select

from osbuild.fleet.states import ActionState
from osbuild.fleet.tables import actions

UNSEEN_AFTER = 24 * 3600 * 1000  # milliseconds without a poll


class DeviceCondition(StrEnum):
    """What an operator has to know first about a device. The first one that fits counts."""

    unseen = "not seen"  # it has not polled for `UNSEEN_AFTER`
    unhealthy = "not healthy"
    failed = "update failed"  # its newest action has failed: it runs the version from before
    healthy = "healthy"
    unknown = "unknown"  # it does not say


def find_failed(connection: Connection) -> set[int]:
    """Return the ids of the devices whose newest action has failed."""
    newer = actions.alias()
    later = exists().where(newer.c.device == actions.c.device, newer.c.id > actions.c.id)
    chosen = select(actions.c.device).where(actions.c.state == ActionState.failed, ~later)
    return set(connection.execute(chosen).scalars())


def judge_device(attributes: Mapping[str, str], seen: int | None, now: int, *, failed: bool) -> DeviceCondition:
    """Return the condition of a device that was last `seen` then; `failed` says whether its newest action has."""
    if seen is None or seen < now - UNSEEN_AFTER:
        return DeviceCondition.unseen
    health = attributes.get("health")
    if health == DeviceCondition.unhealthy:
        return DeviceCondition.unhealthy
    if failed:
        return DeviceCondition.failed
    return DeviceCondition.healthy if health == DeviceCondition.healthy else DeviceCondition.unknown
