"""The update server as an ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from osbuild.fleet.ddi.routes import device_routes
from osbuild.fleet.enrolment import enrolment_routes
from osbuild.fleet.management.routes import management_routes
from osbuild.fleet.rollout.transitions import advance_by_time
from osbuild.fleet.service import Service
from osbuild.host import log

STORE_EVERY, ADVANCE_EVERY = 10.0, 5.0  # seconds


def make_application(service: Service) -> Starlette:
    """Return the application. While it runs, it stores which devices were seen, and goes on with rollouts."""

    async def advance_rollouts() -> None:
        now = service.clock()

        def advance(connection: Connection) -> None:
            advance_by_time(connection, now)

        await service.database.change(advance)

    @contextlib.asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(repeat(service.store_contacts, STORE_EVERY)),
            asyncio.create_task(repeat(advance_rollouts, ADVANCE_EVERY)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await service.store_contacts()

    routes = [
        Route("/healthz", is_alive),
        *management_routes(service),
        *enrolment_routes(service),
        *device_routes(service),
    ]
    application = Starlette(routes=routes, lifespan=lifespan)
    application.router.redirect_slashes = False  # a client that follows a redirect sends no body
    return application


async def is_alive(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def repeat(work: Callable[[], Awaitable[None]], every: float) -> None:
    """Run `work` every so many seconds until the task is cancelled. A failure, such as a full disk, is only logged."""
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except SQLAlchemyError as error:
            log.warn(f"the database: {error}")
