"""Clients that send bytes of their own choice over TLS or TCP, for tests of servers."""

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx

from tests.support.update_server import RunningServer

PATIENT = 60.0  # seconds for what a server does at once on an idle machine


def resident_memory(process: int) -> int:
    """Return the resident memory of a process in bytes (proc(5))."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


class RawClient:
    """Opens connections to a server."""

    def __init__(self, server: RunningServer, context: ssl.SSLContext | None = None) -> None:
        self.port = server.port
        self._context = context or server.context()

    async def open(self, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self._context if tls else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def send(self, data: bytes, *, tls: bool = True, patience: float = PATIENT) -> bytes:
        """Send `data`, and return what the server sends until it closes the connection, or for `patience` seconds."""
        reader, writer = await self.open(tls=tls)
        answer = b""
        try:
            writer.write(data)
            async with asyncio.timeout(patience):
                while part := await reader.read(65536):
                    answer += part
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()
        return answer


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all answers in what a server has sent."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@contextmanager
def served_meanwhile(server: RunningServer, check: Callable[[httpx.Client], bool]) -> Iterator[None]:
    """Assert that another client, on new connections, is served during the block and after it."""
    end, failures, successes = Event(), list[str](), [0]

    def ask() -> None:
        while not end.wait(0.3):
            try:
                with server.anybody() as anybody:
                    anybody.timeout = httpx.Timeout(PATIENT)
                    if check(anybody):
                        successes[0] += 1
                    else:
                        failures.append("a wrong answer")
            except httpx.HTTPError as error:
                failures.append(repr(error))

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
        before = successes[0]
        while successes[0] == before and not failures:
            end.wait(0.1)
    finally:
        end.set()
        thread.join(2 * PATIENT)
    assert failures == [] and successes[0] > 0
