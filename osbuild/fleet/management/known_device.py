"""The device that an address of the management API names."""

from starlette.requests import Request

from osbuild.fleet.devices import FleetDevice, find_device
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.service import Service


def known_device(request: Request, service: Service) -> FleetDevice:
    """Return the device that the address names, which is in use. Raises `Refused`."""
    return used_device(service, request.path_params["name"])


def used_device(service: Service, name: str) -> FleetDevice:
    """Return the device `name`, which is in use. Raises `Refused`."""
    device = named_device(service, name)
    if device.decommissioned is not None:
        message = f"the device {name} is decommissioned: it enrols again with a token that is only for its name"
        raise Refused(404, "decommissioned", f"{message} (`edge-osbuild fleet enrol-token --device {name}`)")
    return device


def registered_device(request: Request, service: Service) -> FleetDevice:
    """Return the device that the address names, in use or not. Raises `Refused`."""
    return named_device(service, request.path_params["name"])


def named_device(service: Service, name: str) -> FleetDevice:
    """Return the device `name`, in use or not. Raises `Refused`."""
    device = service.database.read(lambda connection: find_device(connection, name))
    if device is None:
        raise not_found(f"there is no device {name}")
    return device
