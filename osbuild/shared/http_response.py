"""An HTTP response whose headers must be complete."""

import http.client
from typing import Any


class _LineReader:
    """Reads lines of `stream`; `last` is the last one."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.last = b""

    def readline(self, limit: int) -> bytes:
        self.last = self.stream.readline(limit)
        return self.last

    def close(self) -> None:
        self.stream.close()


class CompleteResponse(http.client.HTTPResponse):
    """Skips every interim response (RFC 9110, 15.2). Raises `RemoteDisconnected` if the headers have no end.

    http.client skips only status 100, and takes a connection that closes within the headers for the end of the headers.
    """

    def begin(self) -> None:
        if self.headers is not None:
            return
        response: Any = self
        reader = _LineReader(response.fp)
        response.fp = reader
        try:
            super().begin()
        finally:
            if response.fp is reader:
                response.fp = reader.stream
        if not reader.last:
            raise http.client.RemoteDisconnected("the server closed the connection within the headers")

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        # 101 is the answer to a request for another protocol, which is never sent.
        return version, http.client.CONTINUE if 102 <= status < 200 else status, reason
