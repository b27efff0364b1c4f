"""One address of a device (DDI): who asks, and refusals."""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from osbuild.fleet import actions
from osbuild.fleet.actions import UpdateAction
from osbuild.fleet.ddi.access import identify_device
from osbuild.fleet.ddi.answers import answer_refusal
from osbuild.fleet.ddi.documents import Links
from osbuild.fleet.description import ApiAccess, ApiRoute
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)
BASE = "/{tenant}/controller/v1/{device}"


class _NumberConvertor(Convertor[int]):
    """The id of a row in an address. It always fits into the database."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _NumberConvertor())
Handler = Callable[[Request, Service, FleetDevice], Awaitable[Response]]


def device_route(service: Service, path: str, methods: dict[str, Handler]) -> ApiRoute:
    """Return the route of a resource of devices, with a handler for each method."""

    async def endpoint(request: Request) -> Response:
        try:
            device = await identify_device(request, service)
            return await methods["GET" if request.method == "HEAD" else request.method](request, service, device)
        except Refused as refusal:
            return answer_refusal(refusal)

    return ApiRoute(BASE + path, endpoint, methods, ApiAccess.device)


def device_links(request: Request, artifacts: str | None = None) -> Links:
    """Return the addresses of the device's resources, with the host that the client has used. See `Links`."""
    path = quote(f"/{request.path_params['tenant']}/controller/v1/{request.path_params['device']}")
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):  # `request.url` takes a fifth of the processor time of a poll
        host = request.url.netloc
    return Links(f"{request.scope['scheme']}://{host}{path}", artifacts)


def find_action(request: Request, service: Service, device: FleetDevice) -> UpdateAction:
    """Return the device's action that the address names. Raises `Refused`."""
    number = request.path_params["action"]
    return service.database.read(lambda connection: actions.read_action(connection, device.id, number))
