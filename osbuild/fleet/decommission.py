"""The end of a device: it is not accepted any more."""

from sqlalchemy import Connection, or_, select

from osbuild.fleet import actions
from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.certificates import revoke_certificates
from osbuild.fleet.devices import FleetDevice, decommission_device, find_device
from osbuild.fleet.enrolment_tokens import revoke_tokens_of
from osbuild.fleet.requests import GRACE, end_requests
from osbuild.fleet.states import RequestState
from osbuild.fleet.tables import devices, requests
from osbuild.shared.operator_requests import RequestKind


def end_device(connection: Connection, device: FleetDevice, origin: Origin, **details: object) -> None:
    """Accept a device no more, revoke its certificates and tokens, cancel what it was told to do, and record that."""
    now = origin.time
    for action in actions.active_actions(connection, device.id):
        actions.end_action(connection, action, now)
    end_requests(connection, device.id, now)
    decommission_device(connection, device, now)
    revoke_certificates(connection, device.id, now)
    revoked = revoke_tokens_of(connection, device.name, now)
    if revoked:
        details["revoked_tokens"] = revoked
    record_event(connection, origin, "device decommissioned", device.name, **details)


def end_silent_wipes(connection: Connection, now: int) -> None:
    """Decommission devices that were told to wipe themselves and have been silent since then.

    A device that refuses a wipe says so at its next poll. One that wipes itself without a connection says nothing.
    """
    since = now - GRACE
    chosen = (
        select(devices.c.name, requests.c.id)
        .join(requests, requests.c.device == devices.c.id)
        .where(
            devices.c.decommissioned.is_(None), or_(devices.c.last_seen.is_(None), devices.c.last_seen <= since),
            requests.c.kind == RequestKind.wipe, requests.c.state == RequestState.delivered,
            requests.c.expires <= since,
        )
    )  # fmt: skip
    for name, number in connection.execute(chosen).all():
        device = find_device(connection, name)
        if device is not None and device.decommissioned is None:
            origin = Origin("edge-osbuild serve", "", now)
            end_device(connection, device, origin, request=number, reason="silent after a wipe")
