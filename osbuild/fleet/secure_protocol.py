"""HTTP connections of uvicorn that tell the application which certificate the client has, and limit slow clients."""

import asyncio
import ssl
from typing import Any

import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from osbuild.fleet.service import CLIENT_TIMEOUT

LARGEST_HEAD = 64 * 1024  # bytes of a request line with its headers
LONGEST_LINGER = 10.0  # seconds for the rest of a request that is answered already
FAREWELL = 2.0  # seconds for the last bytes of a connection when the server ends
MOST_PIPELINED = 32  # requests that wait for answers to earlier ones of the same connection


class SecureLoop(uvloop.Loop):
    """An event loop in which a client has `patience` seconds for the handshake of TLS."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Create a server with that limit, which uvicorn has no setting for."""
        return await super().create_server(*arguments, **options, ssl_handshake_timeout=self._patience)


class SecureProtocol(HttpToolsProtocol):
    """Adds the client's certificate to each request, as in the ASGI specification's TLS extension.

    A connection is closed if the headers of a request are too long, or do not arrive in time, if the client does not
    read its answer, or if it sends too many requests at once.
    """

    patience = CLIENT_TIMEOUT
    """seconds for reading some of an answer, at least 48 KiB; the headers of a request must arrive in half of them"""

    _tls: dict[object, object] | None = None
    _head = 0  # bytes that have arrived since the last complete headers
    _in_head = True
    _in_message = False
    _ending = False
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = None if connection is None else connection.getpeercert(binary_form=True)
        if certificate is not None:
            self._tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)]}
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._ending = True
        super().shutdown()
        self._abort_when_closed()

    def pause_writing(self) -> None:
        self._reading = self.loop.call_later(self.patience, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > LARGEST_HEAD:
            self.transport.abort()
        elif self._timer is None and (self._in_head or self._is_unwatched()):
            self._watch_head()  # not for each request: the headers have mostly arrived at once

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many pipelined requests")  # answered with 400, and the connection is closed
        self._in_head, self._head = True, 0
        self._in_message = True
        super().on_message_begin()
        if self._tls is not None:
            self.scope["extensions"] = {"tls": self._tls}

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._abort_when_closed()
        if self._in_message and not self._in_head:
            # The client may still send, because it has to read the answer first, but not for as long as it likes.
            self._stop_timer()
            self._timer = self.loop.call_later(min(LONGEST_LINGER, self.patience), self.transport.abort)
        elif not self._in_message and not self.pipeline and self.cycle is not None and self.cycle.response_complete:
            # An idle connection keeps nothing of its last request: there may be 10,000 of them.
            self.cycle = self.scope = None  # type: ignore[assignment]
            self.headers = []

    def _abort_when_closed(self) -> None:
        """If the server ends, wait only a short time for clients that do not close their side of TLS."""
        if self._ending and self.transport.is_closing():
            self.loop.call_later(FAREWELL, self.transport.abort)

    def _is_unwatched(self) -> bool:
        """Whether nothing is in progress, and nothing would close the connection after a time.

        uvicorn forgets the end of an idle connection when it receives something that does not begin a request.
        """
        idle = self.cycle is None or self.cycle.response_complete
        return idle and self._timer is None and self.timeout_keep_alive_task is None

    def _watch_head(self) -> None:
        self._in_head, self._head = True, 0
        self._timer = self.loop.call_later(self.patience / 2, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
