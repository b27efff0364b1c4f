"""The addresses for operators: whether the server lives, whether it is ready, and its metrics."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from osbuild.fleet.audit import Origin
from osbuild.fleet.description import JSON, ApiAccess, ApiRoute
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.endpoint import Handler, make_endpoint
from osbuild.fleet.operations.metrics import CONTENT_TYPE, Metrics
from osbuild.fleet.operations.readiness import find_problems
from osbuild.fleet.service import Service


def operations_routes(service: Service, metrics: Metrics, describe: Callable[[], bytes]) -> list[BaseRoute]:
    """Return the routes for operators. Everybody may ask for the health, only people with a token for the others.

    `describe` returns the description of the API as JSON.
    """

    async def is_alive(_request: Request) -> Response:
        alive = service.database.is_alive
        return PlainTextResponse("ok\n" if alive else "the database has failed\n", 200 if alive else 503)

    async def is_ready(_request: Request) -> Response:
        problems = await find_problems(service)
        return PlainTextResponse("".join(f"{line}\n" for line in problems or ["ok"]), 503 if problems else 200)

    async def get_metrics(_request: Request, _service: Service, _origin: Origin) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def get_description(_request: Request, _service: Service, _origin: Origin) -> Response:
        return Response(describe(), media_type=JSON)

    def for_viewers(path: str, handler: Handler) -> ApiRoute:
        return ApiRoute(path, make_endpoint(service, Role.viewer, handler), {"GET": handler}, ApiAccess.viewer)

    return [
        ApiRoute("/healthz", is_alive, {"GET": is_alive}, ApiAccess.everybody),
        ApiRoute("/readyz", is_ready, {"GET": is_ready}, ApiAccess.everybody),
        for_viewers("/metrics", get_metrics),
        for_viewers("/openapi.json", get_description),
    ]
