"""The update server as an ASGI application."""

import asyncio
import contextlib
import http
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DataError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from osbuild.fleet.bundle_removal import remove_unneeded_files
from osbuild.fleet.ddi.answers import answer_refusal
from osbuild.fleet.ddi.routes import device_routes
from osbuild.fleet.decommission import end_silent_wipes
from osbuild.fleet.enrolment import enrolment_routes
from osbuild.fleet.management.endpoint import BASE as MANAGEMENT
from osbuild.fleet.management.endpoint import answer_problem
from osbuild.fleet.management.routes import management_routes
from osbuild.fleet.operations.metrics import Metrics
from osbuild.fleet.operations.recorder import RequestRecorder
from osbuild.fleet.operations.routes import operations_routes
from osbuild.fleet.page.routes import page_routes
from osbuild.fleet.page.version_history import count_versions
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import MOST_ANONYMOUS, MOST_BUFFERED, BodyBudget
from osbuild.fleet.requests import expire_requests
from osbuild.fleet.rollout.transitions import advance_by_time
from osbuild.fleet.service import Service
from osbuild.host import log

STORE_EVERY, ADVANCE_EVERY, EXPIRE_EVERY, COUNT_EVERY, TRIM_EVERY = 10.0, 5.0, 30.0, 300.0, 3600.0  # seconds


def make_application(service: Service, *, log_requests: bool = False) -> Starlette:
    """Return the application. While it runs, it stores which devices were seen, and goes on with rollouts."""
    metrics = Metrics(service)

    async def advance_rollouts() -> None:
        now = service.clock()

        def advance(connection: Connection) -> None:
            advance_by_time(connection, now)

        await service.database.change(advance)

    async def remove_files() -> None:
        await remove_unneeded_files(service)

    async def count() -> None:
        await count_versions(service)

    async def expire_old_requests() -> None:
        now = service.clock()

        def expire(connection: Connection) -> None:
            end_silent_wipes(connection, now)
            expire_requests(connection, now)

        await service.database.change(expire)

    @contextlib.asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(repeat(service.store_contacts, STORE_EVERY)),
            asyncio.create_task(repeat(service.store_downloads, STORE_EVERY)),
            asyncio.create_task(repeat(advance_rollouts, ADVANCE_EVERY)),
            asyncio.create_task(repeat(expire_old_requests, EXPIRE_EVERY)),
            asyncio.create_task(repeat(count, COUNT_EVERY)),
            asyncio.create_task(repeat(service.trim_history, TRIM_EVERY)),
            asyncio.create_task(repeat(remove_files, TRIM_EVERY)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await service.store_contacts()

    @cache
    def describe() -> bytes:
        from osbuild.fleet.operations.openapi import describe_api  # few servers are ever asked for it

        return msgspec.json.encode(describe_api(routes))

    # The first one that fits is used; those of devices are asked for most.
    routes: list[BaseRoute] = [
        *device_routes(service),
        *operations_routes(service, metrics, describe),
        *enrolment_routes(service),
        *management_routes(service),
        *page_routes(service),
    ]
    handlers = {
        HTTPException: answer_http_error, DataError: answer_bad_value, OverflowError: answer_bad_value,
        ClientDisconnect: answer_nothing, Refused: answer_refused, Exception: answer_defect,
    }  # fmt: skip
    paths = {route.endpoint: route.path for route in routes if isinstance(route, Route)}
    recorder = Middleware(RequestRecorder, paths, metrics.requests, log_requests=log_requests)
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers, middleware=[recorder])
    application.state.client_timeout = service.client_timeout
    application.state.bodies, application.state.anonymous_bodies = BodyBudget(MOST_BUFFERED), BodyBudget(MOST_ANONYMOUS)
    application.router.redirect_slashes = False  # a client that follows a redirect sends no body
    return application


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer an address that does not exist, or a wrong method, in the form of the API's refusals."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = http.HTTPStatus(status).phrase
    answer = await answer_refused(request, Refused(status, reason.lower().replace(" ", "-"), reason))
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)  # such as Allow (RFC 9110, section 15.5.6)
    return answer


async def answer_refused(request: Request, error: Exception) -> Response:
    """Answer a request that was refused, in the form of its part of the API."""
    assert isinstance(error, Refused)
    return answer_problem(error) if request.url.path.startswith(MANAGEMENT) else answer_refusal(error)


async def answer_bad_value(_request: Request, _error: Exception) -> Response:
    """Answer to a value that the database cannot store: a text with NUL in PostgreSQL, a large number in SQLite."""
    return answer_refusal(Refused(400, "bad-value", "a text is too long or has NUL, or a number is too large"))


async def answer_nothing(_request: Request, _error: Exception) -> Response:
    """The client has gone in the middle of its request: nobody reads this."""
    return Response(status_code=400)


async def answer_defect(request: Request, error: Exception) -> Response:
    """Answer after a defect of the server, which is logged without the contents of the request."""
    log.warn(f"{request.method} {request.url.path[:200]!r} has failed: {error!r}")
    return answer_refusal(Refused(500, "internal-error", "the server has failed: its log says why"))


async def repeat(work: Callable[[], Awaitable[None]], every: float) -> None:
    """Run `work` every so many seconds until the task is cancelled. A failure, such as a full disk, is only logged."""
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except Refused:  # the database fails, as the log says
            pass
        except Exception as error:  # the next attempt may succeed
            log.warn(f"{getattr(work, '__name__', 'a task')} has failed: {error!r}")
