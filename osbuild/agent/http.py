"""HTTP requests with deadlines. A server that is slow, broken or hostile neither blocks nor crashes the caller."""

import base64
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from osbuild.shared.http_deadline import INVALID_ANSWERS, ConnectionDeadline
from osbuild.shared.http_response import CompleteResponse
from osbuild.shared.urls import redact_url, redact_urls


@dataclass(frozen=True)
class TlsFiles:
    """Files (PEM) with which a device trusts a server and proves who it is: authority, own certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    def make_context(self) -> ssl.SSLContext:
        """Return the device's side of TLS. Raises `OSError`, also for files that are not certificates."""
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class ServerToken:
    """How a device trusts a server, and proves who it is without a certificate.

    `authority` is a file (PEM), `authorization` the value of the header Authorization.
    """

    authority: Path
    authorization: str

    def make_context(self) -> ssl.SSLContext:
        """Return the device's side of TLS. Raises `OSError`, also for a file that is not a certificate."""
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True)
class ServerAddress:
    """The address or path `text` of a file. `url` has no user and password; they are in `authorization`.

    `shown` is the form for logs and records. It has no query either, because a query may contain a secret. With `tls`,
    the device proves who it is with a certificate, with `token` by a header.
    """

    text: str
    tls: TlsFiles | None = None
    token: ServerToken | None = None

    @property
    def remote(self) -> bool:
        """Whether this is an http or https address. Anything else is the path of a file."""
        return self.text.lower().startswith(("http://", "https://"))

    @property
    def url(self) -> str:
        """The address to request, or the path. Raises `ValueError` for an invalid address."""
        parts = urlsplit(self.text)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if self.remote else self.text

    @property
    def problem(self) -> str | None:
        """Why this address is invalid; None for a valid address or a path."""
        try:
            parts = urlsplit(self.url)
            _ = parts.port
            return None if not self.remote or parts.hostname else "it has no host"
        except ValueError:  # the message of urllib quotes the host, which may be a part of the password
            return "its host or port is wrong, or its user or password has special characters that must be %XX"

    @property
    def authorization(self) -> str:
        """The value of the header Authorization: the token, or the user of the address (RFC 7617); empty for none."""
        if self.token:
            return self.token.authorization
        user, at, _ = urlsplit(self.text).netloc.rpartition("@") if self.remote else ("", "", "")
        return f"Basic {base64.b64encode(unquote(user).encode()).decode()}" if at else ""

    @property
    def shown(self) -> str:
        return redact_url(self.text)

    def make_context(self) -> ssl.SSLContext | None:
        """Return the device's side of TLS; None if the authorities of the system are trusted. Raises `OSError`."""
        credentials = self.tls or self.token
        return credentials.make_context() if credentials else None

    def hide(self, text: str) -> str:
        """`text` with every form of the address replaced by `shown`, and without secrets of other addresses."""
        for secret in (self.text, self.url, *([self.authorization] if self.authorization else [])):
            text = text.replace(secret, self.shown)
        return redact_urls(text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> None:
        """Return None, so that urllib raises `HTTPError` for every redirect."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _WebRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise ValueError(f"a redirect to {redact_url(newurl)[:100]!r}")
        fp.close()  # urllib would read the whole body into memory
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _handlers(watch: ConnectionDeadline, context: ssl.SSLContext | None) -> list[urllib.request.BaseHandler]:
    """Handlers whose connections are shut down by `watch`."""

    class Plain(http.client.HTTPConnection):
        response_class = CompleteResponse

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = watch.connect

    class Secure(http.client.HTTPSConnection):
        response_class = CompleteResponse

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = watch.connect

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req, context=context)

    return [Http(), Https()]


@contextmanager
def open_request(
    request: urllib.request.Request,
    patience: float,
    end: float,
    *,
    redirects: bool = True,
    context: ssl.SSLContext | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Yield a 2xx answer. Its headers must arrive within `patience` seconds, its body by `end` (time.monotonic()).

    The body may pause for `patience` seconds. Without `context`, https uses the authorities of the system. Raises
    `TimeoutError`, `urllib.error.HTTPError` for another status, other `OSError`, and the exceptions of
    `INVALID_ANSWERS`.
    """
    watch, begin = ConnectionDeadline(), time.monotonic()
    watch.until(min(end, begin + patience))
    redirect_handler = _WebRedirect() if redirects else _NoRedirect()
    try:
        opener = urllib.request.build_opener(redirect_handler, *_handlers(watch, context))
        with opener.open(request, timeout=patience) as answer:
            watch.until(end)
            yield answer
            if watch.over:  # http.client accepts a body without a length that ends with the connection as complete
                raise TimeoutError
    except urllib.error.HTTPError:
        raise
    except (OSError, *INVALID_ANSWERS) as error:
        if watch.over:
            raise TimeoutError(f"not complete after {time.monotonic() - begin:.0f} s") from error
        raise
    finally:
        watch.close()
