"""Requests to a device on its page."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from osbuild.fleet import requests
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.known_device import known_device
from osbuild.fleet.management.messages import NewRequest, RequestView
from osbuild.fleet.management.request_routes import ROLES, make_request, send_diagnostics, view_requests
from osbuild.fleet.page import session
from osbuild.fleet.page.forms import read_form
from osbuild.fleet.page.render import HEADERS
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service
from osbuild.shared.operator_requests import RequestKind

MOST_SHOWN = 20


def shown_requests(service: Service, device: FleetDevice) -> list[RequestView]:
    """Return the newest requests to a device."""
    newest = service.database.read(lambda connection: requests.list_requests(connection, MOST_SHOWN, device.id))
    return view_requests(service, newest)


def offered_kinds(user: PageUser) -> list[RequestKind]:
    """Return what a user may request. A device is wiped only with the command line, which asks again."""
    return [kind for kind, role in ROLES.items() if user.role >= role and kind is not RequestKind.wipe]


async def send_request(request: Request, service: Service, user: PageUser) -> Response:
    """Request what the form says. Raises `Refused`."""
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    device = known_device(request, service)
    if form.get("kind") not in offered_kinds(user):
        raise Refused(400, "bad-form", "this can't be requested here")
    origin = session.origin_of(user, request, service.clock())
    await make_request(service, device, NewRequest(RequestKind(form["kind"])), origin)
    return RedirectResponse(f"/devices/{quote(device.name)}", 303, HEADERS)


async def download_diagnostics(request: Request, service: Service, user: PageUser) -> Response:
    """Send the diagnostics of a request. Raises `Refused`."""
    if user.role < Role.operator:
        raise Refused(403, "not-allowed", f"this needs the role {Role.operator.name}, and you have {user.role.name}")
    origin = session.origin_of(user, request, service.clock())
    return await send_diagnostics(service, request.path_params["number"], origin)
