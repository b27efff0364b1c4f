"""Bodies of requests: read in bounded memory, and decoded."""

import asyncio
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.requests import Request

from osbuild.fleet.message_problem import describe_problem
from osbuild.fleet.refusal import Refused

T = TypeVar("T")
LARGEST_MESSAGE = 256 * 1024  # bytes
LARGEST_ANONYMOUS = 16 * 1024  # bytes of a body whose sender has not proved yet who it is
MOST_BUFFERED, MOST_ANONYMOUS = 64 * 2**20, 16 * 2**20  # bytes of all bodies that have not arrived completely
RETRY_AFTER = 10  # seconds


@dataclass
class BodyBudget:
    """The memory for bodies that have not arrived completely: `left` more bytes."""

    left: int

    def take(self, size: int) -> None:
        """Use some of it. Raises `Refused` if there is not enough."""
        if size > self.left:
            message = "the server receives too many requests at the same time: try again later"
            raise Refused(503, "too-many-bodies", message, RETRY_AFTER)
        self.left -= size


async def read_body(request: Request, largest: int = LARGEST_MESSAGE) -> bytes:
    """Return the body of a request. Raises `Refused` if it has more than `largest` bytes, or arrives too slowly.

    Also raises it if the bodies of all requests together need too much memory.
    """
    return await _collect_chunks(request, largest, request.app.state.bodies)


async def read_anonymous_body(request: Request) -> bytes:
    """Like `read_body`, for senders that anybody may be: they cannot use up the memory of the others."""
    return await _collect_chunks(request, LARGEST_ANONYMOUS, request.app.state.anonymous_bodies)


def decode_json(body: bytes, kind: type[T]) -> T:
    """Return the message in a body (JSON). Raises `Refused`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:  # RecursionError: too deeply nested
        raise Refused(400, "bad-body", describe_problem(error)) from error


async def _collect_chunks(request: Request, largest: int, budget: BodyBudget) -> bytes:
    body, seconds = bytearray(), request.app.state.client_timeout
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > largest:
                    raise Refused(413, "body-too-large", f"a body has at most {largest} bytes")
                budget.take(len(chunk))
                body += chunk
    except TimeoutError as error:
        raise Refused(408, "too-slow", f"the body has not arrived within {seconds:g} s") from error
    finally:
        budget.left += len(body)
    return bytes(body)
