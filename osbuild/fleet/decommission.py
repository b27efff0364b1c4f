"""The end of a device: it is not accepted any more."""

from sqlalchemy import Connection

from osbuild.fleet import actions
from osbuild.fleet.certificates import revoke_certificates
from osbuild.fleet.devices import FleetDevice, decommission_device
from osbuild.fleet.requests import end_requests


def end_device(connection: Connection, device: FleetDevice, now: int) -> None:
    """Accept a device no more, revoke its certificates, and cancel what it was told to do."""
    for action in actions.active_actions(connection, device.id):
        actions.end_action(connection, action, now)
    end_requests(connection, device.id, now)
    decommission_device(connection, device, now)
    revoke_certificates(connection, device.id, now)
