"""HTTP connections of uvicorn that tell the application which certificate the client has, and limit slow clients."""

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024  # bytes of a request line with its headers
PATIENCE = 30.0  # seconds for them


class SecureProtocol(HttpToolsProtocol):
    """Adds the client's certificate to each request, as in the ASGI specification's TLS extension.

    A connection is closed if the headers of a request are too long, or do not arrive in time.
    """

    _tls: dict[object, object] | None = None
    _head = 0  # bytes that have arrived since the last complete headers
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = None if connection is None else connection.getpeercert(binary_form=True)
        if certificate is not None:
            self._tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)]}
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > LARGEST_HEAD:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()
        if self._tls is not None:
            self.scope["extensions"] = {"tls": self._tls}

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head, self._head = True, 0
        self._stop_timer()
        self._timer = self.loop.call_later(PATIENCE, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
