"""One HTTP request, by urllib: proxies and certificate authorities from the environment, and three time-outs."""

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

from osbuild.agent.http import INVALID_ANSWERS, ConnectionDeadline

CONNECT_TIMEOUT = 5.0  # seconds; short, because "cannot be reached" decides what a build falls back to
DIGITS = 19  # of 2**63, the size of the largest file
RESOLVE_TIMEOUT = 8.0  # seconds; longer, because resolv.conf(5) gives a dead first name server 5 s


class RequestFailed(Exception):
    """No answer, or none of use: why, and whether asking `again` may help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def redact_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, query. Of a malformed URL, the scheme alone is left."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a `#` or `/` in a password ends the host for urlsplit, so the secret could be anywhere
        return f"{url.partition('://')[0]}://…"
    if not parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="…" if parts.query else ""))


def send_get(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """Send a GET and follow redirects; every other status is an answer, and its body is still to be read.

    `timeout` is in seconds without data, and also limits how long the headers may take. A user and password in the URL
    are sent as basic authentication, to the first server only. Raises `RequestFailed` if no answer arrives.
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=dict(headers))
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    watch = ConnectionDeadline()
    handlers = (_Http(watch), _Https(watch), _AnyStatus(), _Redirects())
    try:
        answer = urllib.request.build_opener(*handlers).open(request, timeout=timeout)
        if watch.over:  # http.client takes a connection that ends within the headers for their end
            answer.close()
            raise TimeoutError
    except urllib.error.HTTPError as error:  # redirects without an end
        error.close()
        raise RequestFailed(" ".join(str(error.reason).split())) from error
    except (OSError, *INVALID_ANSWERS) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        connected = not (isinstance(cause, TimeoutError) and "within" in str(cause))
        if connected and (watch.over or isinstance(error, TimeoutError)):
            raise RequestFailed(f"no answer in {timeout:g} s", again=True) from error
        reached = isinstance(cause, (ConnectionResetError, http.client.RemoteDisconnected))
        again = reached if isinstance(error, urllib.error.URLError) else isinstance(error, ConnectionError)
        raise RequestFailed(explain_error(cause, timeout), again=again) from error
    finally:
        watch.close()
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def length(headers: http.client.HTTPMessage) -> int | None:
    """Bytes of the body, None if the header does not say, or says nothing that a file could have (RFC 9110, 8.6)."""
    return whole_number(headers.get("Content-Length", ""))


def whole_number(text: str) -> int | None:
    """The number in a header; None if it is not one of at most 19 digits, which is more than any file has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None


def explain_error(error: object, timeout: float) -> str:
    """What went wrong, in words, from whatever urllib, ssl or a socket raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message} (SSL_CERT_FILE names your authorities)"
    if isinstance(error, socket.gaierror):
        return f"cannot resolve the name: {error.strerror}"
    if isinstance(error, TimeoutError):
        return str(error) if error.errno is None and "within" in str(error) else f"no data for {timeout:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Hands every answer to the caller, except redirects."""

    def http_response(self, request: Any, response: Any) -> Any:
        if response.status in (301, 302, 303, 307, 308):
            return super().http_response(request, response)
        return response

    https_response = http_response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and from https to https only, as apt does."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise ValueError(f"it redirects from {req.type} to {scheme[:20]}, which is not followed")
        fp.close()  # urllib would read all of the body into memory
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Connect(http.client.HTTPConnection):
    """Name look-up and connection have a short time-out of their own; the one for data applies after that."""

    def __init__(self, watch: ConnectionDeadline, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._watch, self._create_connection = watch, watch.connect

    def connect(self) -> None:
        patience, self.timeout = self.timeout, CONNECT_TIMEOUT
        _resolve(self.host, self.port)
        self._watch.until(time.monotonic() + CONNECT_TIMEOUT)
        try:
            super().connect()
        except OSError as error:
            if isinstance(error, TimeoutError) or self._watch.over:
                raise TimeoutError(f"cannot connect within {CONNECT_TIMEOUT:g} s") from error
            raise
        assert patience is not None
        self._watch.until(time.monotonic() + patience)
        self.timeout = patience
        self.sock.settimeout(patience)


class _SecureConnect(_Connect, http.client.HTTPSConnection):
    """The same with TLS, whose handshake counts as connecting."""


def _resolve(host: str, port: int) -> None:
    """Look the name up in a thread, since getaddrinfo(3) itself knows no time-out."""
    done = threading.Event()

    def look() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            pass  # connecting will meet the same error, and says so
        finally:
            done.set()

    threading.Thread(target=look, daemon=True).start()
    if not done.wait(RESOLVE_TIMEOUT):
        raise TimeoutError(f"cannot resolve the name within {RESOLVE_TIMEOUT:g} s")


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: ConnectionDeadline) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connect, self._watch), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: ConnectionDeadline) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_SecureConnect, self._watch), req)
