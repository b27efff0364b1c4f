"""The addresses for operators: whether the server lives, whether it is ready, and its metrics."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from osbuild.fleet.audit import Origin
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.endpoint import make_endpoint
from osbuild.fleet.operations.metrics import CONTENT_TYPE, Metrics
from osbuild.fleet.operations.readiness import find_problems
from osbuild.fleet.service import Service


def operations_routes(service: Service, metrics: Metrics) -> list[BaseRoute]:
    """Return the routes for operators. Everybody may ask for the health, only people with a token for metrics."""

    async def is_alive(_request: Request) -> Response:
        alive = service.database.is_alive
        return PlainTextResponse("ok\n" if alive else "the database has failed\n", 200 if alive else 503)

    async def is_ready(_request: Request) -> Response:
        problems = await find_problems(service)
        return PlainTextResponse("".join(f"{line}\n" for line in problems or ["ok"]), 503 if problems else 200)

    async def get_metrics(_request: Request, _service: Service, _origin: Origin) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return [
        Route("/healthz", is_alive),
        Route("/readyz", is_ready),
        Route("/metrics", make_endpoint(service, Role.viewer, get_metrics)),
    ]
