"""One HTTP request, by urllib: proxies and certificate authorities from the environment, two time-outs."""

import base64
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

CONNECT_TIMEOUT = 5.0  # seconds; short, because "cannot be reached" decides what a build falls back to
RESOLVE_TIMEOUT = 8.0  # seconds; longer, because resolv.conf(5) gives a dead first name server 5 s


class Failed(Exception):
    """No answer, or none of use: why, and whether asking `again` may help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def public(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="…" if parts.query else ""))


def get(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """Send a GET and follow redirects; every other status is an answer, and its body is still to be read.

    `timeout` is in seconds without data. A user and password in the URL are sent as basic authentication, to the
    first server only. Raises `Failed` where no answer comes.
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=dict(headers))
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    try:
        answer = urllib.request.build_opener(_Http, _Https, _AnyStatus).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:  # redirects without an end
        error.close()
        raise Failed(str(error.reason)) from error
    except urllib.error.URLError as error:
        reached = isinstance(error.reason, (ConnectionResetError, http.client.RemoteDisconnected))
        raise Failed(reason(error.reason, timeout), again=reached) from error
    except TimeoutError as error:  # connected, but no answer
        raise Failed(f"no answer in {timeout:g} s", again=True) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(reason(error, timeout), again=isinstance(error, ConnectionError)) from error
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def reason(error: object, timeout: float) -> str:
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


class _Connect(http.client.HTTPConnection):
    """Name look-up and connection have a short time-out of their own; the one for data applies after that."""

    def connect(self) -> None:
        patience, self.timeout = self.timeout, CONNECT_TIMEOUT
        _resolve(self.host, self.port)
        try:
            super().connect()
        except TimeoutError as error:
            raise TimeoutError(f"cannot connect within {CONNECT_TIMEOUT:g} s") from error
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
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connect, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnect, req)
