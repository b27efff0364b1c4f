"""One HTTP request with urllib, with timeouts for name lookup, connection and data.

Proxies and certificate authorities are those of the environment.
"""

import base64
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from osbuild.shared.http_deadline import INVALID_ANSWERS, ConnectionDeadline
from osbuild.shared.http_response import CompleteResponse
from osbuild.shared.urls import redact_urls

CONNECT_TIMEOUT = 5.0  # seconds; short, because a build waits for it before it falls back to its cache
MAX_DIGITS = 19  # decimal digits of 2**63, the size of the largest file
RESOLVE_TIMEOUT = (
    8.0  # seconds; longer, because the resolver waits 5 s for a name server that does not answer (resolv.conf(5))
)


class RequestFailed(Exception):
    """The server gave no usable answer. `again` says whether a retry may help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def send_get(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """Send a GET, follow redirects and return the response of any other status, its body unread.

    `timeout` is the longest time without data, in seconds, and also limits the headers as a whole. A user and password
    in the URL are sent as basic authentication, to the first server only. Raises `RequestFailed` without a response.
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=dict(headers))
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    watch = ConnectionDeadline()
    handlers = (_ConnectHandler(watch), _SecureConnectHandler(watch), _AnyStatus(), _Redirects())
    try:
        answer = urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:  # a redirect loop
        error.close()
        raise RequestFailed(" ".join(str(error.reason).split())) from error
    except (OSError, *INVALID_ANSWERS) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        connected = not (isinstance(cause, TimeoutError) and "within" in str(cause))
        if connected and (watch.over or isinstance(error, TimeoutError)):
            raise RequestFailed(f"no answer within {timeout:g} s", again=True) from error
        was_reset = isinstance(cause, (ConnectionResetError, http.client.RemoteDisconnected))
        again = was_reset if isinstance(error, urllib.error.URLError) else isinstance(error, ConnectionError)
        raise RequestFailed(explain_error(cause, timeout), again=again) from error
    finally:
        watch.close()
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def length(headers: http.client.HTTPMessage) -> int | None:
    """Return the bytes of the body (RFC 9110, 8.6). None without a header, or if its value is not a file's size."""
    return whole_number(headers.get("Content-Length", ""))


def whole_number(text: str) -> int | None:
    """Return the number in a header; None if it is not a number, or has more than 19 digits, as no file's size has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def explain_error(error: object, timeout: float) -> str:
    """Return an exception of urllib, ssl or a socket as a message for the user."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message} (SSL_CERT_FILE names your authorities)"
    if isinstance(error, socket.gaierror):
        return f"cannot resolve the name: {error.strerror}"
    if isinstance(error, TimeoutError):
        return str(error) if error.errno is None and "within" in str(error) else f"no data for {timeout:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.InvalidURL):  # its message quotes a part of the URL, which may be a password
        return "is not a URL: write special characters of a user or password as %XX"
    return redact_urls(str(error)) or type(error).__name__


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Returns a response of any status to the caller, except redirects."""

    def http_response(self, request: Any, response: Any) -> Any:
        if response.status in (301, 302, 303, 307, 308):
            return super().http_response(request, response)
        return response

    https_response = http_response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and from https to https only, as apt does."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise ValueError(
                f"the server redirects from {req.type} to {scheme[:20]}, and such redirects are not followed"
            )
        fp.close()  # urllib would read the whole body into memory
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Connect(http.client.HTTPConnection):
    """Name lookup and connection have short timeouts of their own; the timeout for data applies afterwards."""

    response_class = CompleteResponse

    def __init__(self, watch: ConnectionDeadline, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._watch, self._create_connection = watch, watch.connect

    def connect(self) -> None:
        data_timeout, self.timeout = self.timeout, CONNECT_TIMEOUT
        _resolve(self.host, self.port)
        self._watch.until(time.monotonic() + CONNECT_TIMEOUT)
        try:
            super().connect()
        except OSError as error:
            if isinstance(error, TimeoutError) or self._watch.over:
                raise TimeoutError(f"cannot connect within {CONNECT_TIMEOUT:g} s") from error
            raise
        assert data_timeout is not None
        self._watch.until(time.monotonic() + data_timeout)
        self.timeout = data_timeout
        self.sock.settimeout(data_timeout)


class _SecureConnect(_Connect, http.client.HTTPSConnection):
    """The same with TLS. The handshake is part of connecting."""


def _resolve(host: str, port: int) -> None:
    """Look the name up in a thread, because getaddrinfo(3) has no timeout. Raises `TimeoutError`."""
    finished = threading.Event()

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            pass  # connecting reports the same error
        finally:
            finished.set()

    threading.Thread(target=look_up, daemon=True).start()
    if not finished.wait(RESOLVE_TIMEOUT):
        raise TimeoutError(f"cannot resolve the name within {RESOLVE_TIMEOUT:g} s")


class _ConnectHandler(urllib.request.HTTPHandler):
    def __init__(self, watch: ConnectionDeadline) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connect, self._watch), req)


class _SecureConnectHandler(urllib.request.HTTPSHandler):
    def __init__(self, watch: ConnectionDeadline) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_SecureConnect, self._watch), req)
