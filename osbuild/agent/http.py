"""HTTP requests to servers that may be slow, broken or hostile: none holds up the agent or makes it fail."""

import base64
import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

# What urllib and http.client raise for an answer that makes no sense: a bad status line, header, length or redirect.
INVALID_ANSWERS = (http.client.HTTPException, ValueError, OverflowError, LookupError, AttributeError)


@dataclass(frozen=True)
class ServerAddress:
    """What a user calls `text`, taken apart: `url` without user and password, which become the header `authorization`.

    `shown` is what may be logged and stored: a query may hold a secret too.
    """

    text: str

    @property
    def remote(self) -> bool:
        """Whether this is an http or https address; anything else is a file."""
        return self.text.startswith(("http://", "https://"))

    @property
    def url(self) -> str:
        """What is asked for. Raises `ValueError` where that is no address."""
        parts = urlsplit(self.text)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if self.remote else self.text

    @property
    def problem(self) -> str | None:
        """Why this is not an address, None if it is one or a file."""
        try:
            parts = urlsplit(self.url)
            return None if not self.remote or parts.hostname else "it names no host"
        except ValueError as error:
            return str(error)

    @property
    def authorization(self) -> str:
        """Value of the header (RFC 7617), empty where no user is given."""
        user, at, _ = urlsplit(self.text).netloc.rpartition("@") if self.remote else ("", "", "")
        return f"Basic {base64.b64encode(unquote(user).encode()).decode()}" if at else ""

    @property
    def shown(self) -> str:
        if not self.remote:
            return self.text
        try:
            parts = urlsplit(self.text)
        except ValueError:
            return "an address that makes no sense"
        return urlunsplit(
            parts._replace(netloc=parts.netloc.rpartition("@")[2], query="…" if parts.query else "", fragment="")
        )

    def hide(self, text: str) -> str:
        """`text` without the parts of the address that are not shown."""
        for secret in (self.text, self.url, *([self.authorization] if self.authorization else [])):
            text = text.replace(secret, self.shown)
        return text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> None:
        """Have a redirect raised as `HTTPError`, wherever it leads to."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _OnlyWeb(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise ValueError(f"a redirect to {newurl[:100]!r}")
        fp.close()  # urllib would read the whole body into memory
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class ConnectionDeadline:
    """Ends connections that are still open at a time by time.monotonic(), whatever they are doing."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._changed = threading.Condition()
        self._end: float | None = None
        self.over = False
        threading.Thread(target=self._run, daemon=True, name="deadline").start()

    def until(self, end: float) -> None:
        """Set the time, for the connections that there are and those to come."""
        with self._changed:
            self._end = end
            self._changed.notify()

    def connect(self, *words: Any, **options: Any) -> socket.socket:
        """Like socket.create_connection, watched."""
        connection = socket.create_connection(*words, **options)
        with self._changed:  # a descriptor of its own: TLS takes over the other one
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))
            if self.over:
                self._shut()
        return connection

    def close(self) -> None:
        """Watch no more."""
        with self._changed:
            self._end = None
            self.over = True
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self.over:
                left = None if self._end is None else self._end - time.monotonic()
                if left is not None and left <= 0:
                    self.over = True
                    self._shut()
                else:
                    self._changed.wait(left)

    def _shut(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _handlers(watch: ConnectionDeadline) -> list[urllib.request.BaseHandler]:
    """What makes connections that `watch` knows."""

    class Plain(http.client.HTTPConnection):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            self._create_connection = watch.connect

    class Secure(http.client.HTTPSConnection):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            self._create_connection = watch.connect

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req)

    return [Http(), Https()]


@contextmanager
def open_request(
    request: urllib.request.Request, patience: float, end: float, *, redirects: bool = True
) -> Iterator[http.client.HTTPResponse]:
    """An answer with a status of 2xx, its headers complete within `patience` seconds, its body to be read until `end`.

    `end` is by time.monotonic(); a body may pause for `patience` seconds. Raises `TimeoutError`,
    `urllib.error.HTTPError` for another status, other `OSError`, and what `INVALID_ANSWERS` has.
    """
    watch, begin = ConnectionDeadline(), time.monotonic()
    watch.until(min(end, begin + patience))
    follow = _OnlyWeb() if redirects else _NoRedirect()
    try:
        with urllib.request.build_opener(follow, *_handlers(watch)).open(request, timeout=patience) as answer:
            watch.until(end)
            if watch.over:  # http.client takes a connection that ends within the headers for their end
                raise TimeoutError
            yield answer
    except urllib.error.HTTPError:
        raise
    except (OSError, *INVALID_ANSWERS) as error:
        if watch.over:
            raise TimeoutError(f"not complete after {time.monotonic() - begin:.0f} s") from error
        raise
    finally:
        watch.close()
