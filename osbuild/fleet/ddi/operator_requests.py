"""The addresses at which a device gets requests of operators, and answers them. They are not part of DDI."""

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from osbuild.fleet import requests
from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.certificates import revoke_certificates
from osbuild.fleet.ddi.access import client_certificate
from osbuild.fleet.ddi.answers import answer_document
from osbuild.fleet.ddi.endpoint import device_route
from osbuild.fleet.decommission import end_device
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json, read_body
from osbuild.fleet.service import Service
from osbuild.shared.operator_requests import LARGEST_ARCHIVE, RequestKind, RequestResult

GZIP = b"\x1f\x8b"  # RFC 1952


class RequestAnswer(msgspec.Struct):
    """What a device says about the end of a request."""

    state: RequestResult
    details: list[str] = []


def operator_request_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of requests of operators."""
    return [
        device_route(service, "/requests/{request:number}", {"GET": get_request}),
        device_route(service, "/requests/{request:number}/diagnostics", {"PUT": put_diagnostics}),
        device_route(service, "/requests/{request:number}/result", {"POST": post_result}),
    ]


async def get_request(request: Request, service: Service, device: FleetDevice) -> Response:
    number, now = request.path_params["request"], service.clock()
    delivered = await service.database.change(lambda c: requests.deliver_request(c, device.id, number, now))
    return answer_document(request, {"id": str(number), "request": delivered.document})


async def put_diagnostics(request: Request, service: Service, device: FleetDevice) -> Response:
    number, now = request.path_params["request"], service.clock()
    content = await read_body(request, LARGEST_ARCHIVE)
    if not content.startswith(GZIP):
        raise Refused(415, "media-type", "diagnostics are a tar archive in gzip")

    def store(connection: Connection) -> None:
        requests.store_archive(connection, requests.read_request(connection, number, device.id), content, now)

    await service.database.change(store)
    return Response(status_code=200)


async def post_result(request: Request, service: Service, device: FleetDevice) -> Response:
    """Store how a request has ended, and what follows from it. The answer is sent when it is on the disk."""
    number, now = request.path_params["request"], service.clock()
    answer = decode_json(await read_body(request), RequestAnswer)
    certificate = client_certificate(request)
    origin = Origin(f"device {device.name}", request.client.host if request.client else "", now)

    def store(connection: Connection) -> None:
        asked = requests.read_request(connection, number, device.id)
        requests.answer_request(connection, asked, answer.state, answer.details, now)
        record_event(connection, origin, f"request {answer.state}", device.name, request=number, kind=asked.kind)
        if answer.state is not RequestResult.succeeded:
            return
        if asked.kind is RequestKind.rotate and certificate is not None:
            revoke_certificates(connection, device.id, now, but=certificate.serial)
        elif asked.kind is RequestKind.wipe:
            end_device(connection, device, origin, request=number)

    await service.database.change(store)
    return Response(status_code=200)
