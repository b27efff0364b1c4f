"""What a device is offered at a poll: its next action, unless the limit of downloads makes it wait."""

from dataclasses import dataclass

from sqlalchemy import Connection

from osbuild.fleet import actions
from osbuild.fleet.actions import UpdateAction
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.downloads import count_downloads, grant_lease, has_lease
from osbuild.fleet.maintenance import zone_of
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionState

SHORTEST_SLEEP = 30  # seconds between two polls before a maintenance window, as in hawkBit


@dataclass(frozen=True)
class UpdateOffer:
    """What a device must do next; None if it is nothing for now. `sleep` is in seconds.

    `window_open` says whether the device is in a maintenance window; None if the action has none.
    """

    action: UpdateAction | None
    sleep: int
    window_open: bool | None = None


async def make_offer(service: Service, device: FleetDevice) -> UpdateOffer:
    """Return what a device must do next. An action whose maintenance windows are all over is cancelled."""
    action, now = next_action(service, device), service.clock()
    if action is not None and has_lapsed(device, action, now):
        lapsed = action
        await service.database.change(lambda connection: actions.cancel_lapsed(connection, lapsed, now))
        action = next_action(service, device)
    if action is None or action.state is not ActionState.running:
        return UpdateOffer(action, service.sleep)
    offer = UpdateOffer(action, next_sleep(service, device, action), is_window_open(service, device, action))
    if await may_download(service, action):
        return offer
    return UpdateOffer(None, offer.sleep)


def next_action(service: Service, device: FleetDevice) -> UpdateAction | None:
    """Return the action that a device is told first."""
    active = service.database.read(lambda connection: actions.active_actions(connection, device.id))
    return active[0] if active else None


def has_lapsed(device: FleetDevice, action: UpdateAction, now: int) -> bool:
    """Return whether the maintenance windows of a running action are all over."""
    if action.maintenance is None or action.state is not ActionState.running:
        return False
    return action.maintenance.has_lapsed(now, zone_of(device.attributes))


def is_window_open(service: Service, device: FleetDevice, action: UpdateAction) -> bool | None:
    """Return whether the device of an action is in a maintenance window; None if the action has none."""
    if action.maintenance is None:
        return None
    return action.maintenance.is_open(service.clock(), zone_of(device.attributes))


def next_sleep(service: Service, device: FleetDevice, action: UpdateAction) -> int:
    """Return the seconds until the next poll: fewer before a maintenance window opens."""
    if action.maintenance is None or is_window_open(service, device, action):
        return service.sleep
    now = service.clock()
    opening = action.maintenance.next_opening(now, zone_of(device.attributes))
    if opening is None:
        return service.sleep
    return min(service.sleep, max((opening - now) // 3000, SHORTEST_SLEEP))


async def may_download(service: Service, action: UpdateAction) -> bool:
    """Return whether a device may download now; then it holds a lease."""
    most, now = service.downloads.most, service.clock()
    if most is None or has_lease(action, now):
        return True
    # Most polls of a large fleet end here, without a change.
    if service.database.read(lambda connection: count_downloads(connection, now)) >= most:
        return False

    def grant(connection: Connection) -> bool:
        return grant_lease(connection, action, most, now)

    return await service.database.change(grant)
