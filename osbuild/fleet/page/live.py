"""Tells an open page that what it shows has changed (server-sent events, WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from osbuild.fleet.page.render import HEADERS
from osbuild.fleet.page.session import PageUser, find_user
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

LIVE_EVERY = 2.0  # seconds
MOST_STREAMS = 20
"""open pages of one session that follow changes"""
RETRY_AFTER = 60  # seconds
CHANGED = b"data: changed\n\n"


def has_session(request: Request, service: Service) -> bool:
    """Whether the session of a request has not ended, or nobody knows it because the database fails."""
    try:
        return find_user(request, service) is not None
    except Refused:
        return True  # a page shows nothing that is new meanwhile, and the session is checked again


async def follow_changes(
    request: Request, service: Service, user: PageUser, read: Callable[[], Awaitable[object]]
) -> Response:
    """Answer with an event whenever `read` returns something else, until the server or the session of `user` ends.

    Raises `Refused` if the first call of `read` does, or if the session has too many of these answers already.
    """
    before, streams = await read(), service.streams
    if streams[user.form_token] >= MOST_STREAMS:
        raise Refused(429, "too-many-streams", f"at most {MOST_STREAMS} pages of a session follow changes", RETRY_AFTER)

    async def events() -> AsyncIterator[bytes]:
        streams[user.form_token] += 1
        try:
            async for event in watch():
                yield event
        finally:
            streams[user.form_token] -= 1
            if not streams[user.form_token]:
                del streams[user.form_token]

    async def watch() -> AsyncIterator[bytes]:
        last = before
        while not await request.is_disconnected():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.ending.wait(), LIVE_EVERY)
                return
            if not has_session(request, service):
                yield CHANGED  # so that the page is loaded again, and shows the form to sign in
                return
            try:
                current = await read()
            except Refused:  # it does not exist any more, as the page says when it is loaded again
                current = None
            yield b": still here\n\n" if current == last else CHANGED
            last = current

    return StreamingResponse(events(), 200, HEADERS, media_type="text/event-stream")
