"""The addresses of requests to devices in the management API."""

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from osbuild.fleet import requests
from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.devices import FleetDevice, read_device_name
from osbuild.fleet.management.access import Role, authorize
from osbuild.fleet.management.endpoint import make_route
from osbuild.fleet.management.known_device import known_device
from osbuild.fleet.management.messages import NewRequest, RequestView
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json, read_body
from osbuild.fleet.requests import FleetRequest, SignedRequest
from osbuild.fleet.service import Service
from osbuild.shared.operator_requests import FORMAT, OperatorRequest, RequestKind

MOST_ROWS = 200
SECOND = 1000  # milliseconds
# What an operator may do with an update too is an operator's; what ends a device is an administrator's.
ROLES = {kind: Role.operator for kind in RequestKind} | {RequestKind.wipe: Role.admin}


def request_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of requests."""
    return [
        make_route(service, "/requests", "GET", Role.viewer, get_requests),
        make_route(service, "/requests/{number:number}", "GET", Role.viewer, get_request),
        make_route(service, "/requests/{number:number}/diagnostics", "GET", Role.operator, get_diagnostics),
        make_route(service, "/devices/{name}/requests", "GET", Role.viewer, get_device_requests),
        make_route(service, "/devices/{name}/requests", "POST", Role.operator, post_request),
    ]


async def get_requests(_request: Request, service: Service, _origin: Origin) -> list[RequestView]:
    return view_requests(service, service.database.read(lambda c: requests.list_requests(c, MOST_ROWS)))


async def get_device_requests(request: Request, service: Service, _origin: Origin) -> list[RequestView]:
    device = known_device(request, service)
    return view_requests(service, service.database.read(lambda c: requests.list_requests(c, MOST_ROWS, device.id)))


async def get_request(request: Request, service: Service, _origin: Origin) -> RequestView:
    number = request.path_params["number"]
    return view_requests(service, [service.database.read(lambda c: requests.read_request(c, number))])[0]


async def get_diagnostics(request: Request, service: Service, origin: Origin) -> Response:
    return await send_diagnostics(service, request.path_params["number"], origin)


async def post_request(request: Request, service: Service, origin: Origin) -> RequestView:
    device = known_device(request, service)
    order = decode_json(await read_body(request), NewRequest)
    authorize(request, service, ROLES[order.kind])
    return await make_request(service, device, order, origin)


async def make_request(service: Service, device: FleetDevice, order: NewRequest, origin: Origin) -> RequestView:
    """Sign and store a request. The device gets it at its next poll. Raises `Refused`."""
    if service.signer is None:
        raise Refused(501, "no-requests", "this server has no certificate for requests")
    expires = origin.time + order.seconds * SECOND
    signed = OperatorRequest(
        id=requests.make_request_id(), device=device.name, kind=order.kind, not_before=origin.time, expires=expires,
        format=FORMAT,
    )  # fmt: skip
    document = service.signer.sign_request(signed)

    def create(connection: Connection) -> FleetRequest:
        new = SignedRequest(order.kind, origin.name, document, origin.time, expires)
        created = requests.create_request(connection, device.id, new)
        record_event(
            connection, origin, "request created", device.name, request=created.id, kind=order.kind, expires=expires
        )
        return created

    created = await service.database.change(create)
    return view_requests(service, [created])[0]


async def send_diagnostics(service: Service, number: int, origin: Origin) -> Response:
    """Return the answer with the diagnostics of a request. Who has read them is recorded. Raises `Refused`."""
    request = service.database.read(lambda c: requests.read_request(c, number))
    content = service.database.read(lambda c: requests.read_archive(c, number))
    name = service.database.read(lambda c: read_device_name(c, request.device))
    await service.database.change(lambda c: record_event(c, origin, "diagnostics read", name, request=number))
    headers = {
        "content-disposition": f'attachment; filename="diagnostics-{number}.tar.gz"', "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }  # fmt: skip
    return Response(content, 200, headers, media_type="application/gzip")


def view_requests(service: Service, chosen: list[FleetRequest]) -> list[RequestView]:
    """Return requests as people see them."""

    def view(connection: Connection) -> list[RequestView]:
        archives = requests.with_archives(connection, [request.id for request in chosen])
        return [
            RequestView(
                request.id, read_device_name(connection, request.device), request.kind, request.state, request.who,
                request.created, request.expires, request.ended, list(request.details), request.id in archives,
            )
            for request in chosen
        ]  # fmt: skip

    return service.database.read(view)
