"""One address of the management API: authorization, the answer as JSON, refusals."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from osbuild.fleet.audit import Origin
from osbuild.fleet.description import ApiAccess, ApiRoute
from osbuild.fleet.management.access import Role, authorize
from osbuild.fleet.management.messages import ApiProblem
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

BASE = "/api/v1"
Handler = Callable[[Request, Service, Origin], Awaitable[object]]


def make_route(service: Service, path: str, method: str, role: Role, handler: Handler) -> ApiRoute:
    """Return the route of `handler`, for people with `role`. What it returns is sent as JSON, or as it is."""

    return ApiRoute(BASE + path, make_endpoint(service, role, handler), {method: handler}, ApiAccess[role.name])


def make_endpoint(service: Service, role: Role, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of `handler`, for people with `role`. What is not a response yet is sent as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            origin = authorize(request, service, role)
            answer = await handler(request, service, origin)
            if isinstance(answer, Response):
                return answer
            return Response(msgspec.json.encode(answer), media_type="application/json")
        except Refused as refusal:
            return answer_problem(refusal)

    return endpoint


def answer_problem(refusal: Refused) -> Response:
    """Return the answer to a refused request."""
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else refusal.headers
    message = refusal.message or "send a valid token: Authorization: Bearer TOKEN"
    body = msgspec.json.encode(ApiProblem(refusal.code, message))
    return Response(body, refusal.status, headers, media_type="application/json")
