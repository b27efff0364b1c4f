"""What the OpenAPI description says about the routes of the API."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

JSON, BINARY, TEXT = "application/json", "application/octet-stream", "text/plain"
PEM, RANGES = "application/pem-certificate-chain", "multipart/byteranges"


class ApiAccess(StrEnum):
    """Who may use a route."""

    everybody = "everybody"
    device = "device"  # the device whose name is in the address, or a gateway
    viewer = "viewer"
    operator = "operator"
    admin = "admin"


class ApiRoute(Route):
    """A route of the API. `handlers` are its functions by method."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        handlers: Mapping[str, Callable[..., Any]],
        access: ApiAccess,
    ) -> None:
        super().__init__(path, endpoint, methods=list(handlers))
        self.handlers = handlers
        self.access = access
