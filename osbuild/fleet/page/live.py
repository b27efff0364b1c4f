"""Tells an open page that what it shows has changed (server-sent events, WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from osbuild.fleet.page.render import HEADERS
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

LIVE_EVERY = 2.0  # seconds


async def follow_changes(request: Request, service: Service, read: Callable[[], Awaitable[object]]) -> Response:
    """Answer with an event whenever `read` returns something else, until the server ends.

    Raises `Refused` if the first call of `read` does.
    """
    before = await read()

    async def events() -> AsyncIterator[bytes]:
        last = before
        while not await request.is_disconnected():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.ending.wait(), LIVE_EVERY)
                return
            try:
                current = await read()
            except Refused:  # it does not exist any more, as the page says when it is loaded again
                current = None
            yield b": still here\n\n" if current == last else b"data: changed\n\n"
            last = current

    return StreamingResponse(events(), 200, HEADERS, media_type="text/event-stream")
