"""Downloads a small text file, such as checksums, from the first source that has it. Time and size are limited."""

import http.client
import time
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from osbuild.host.http import RequestFailed, explain_error, length, send_get
from osbuild.inputs import download
from osbuild.inputs.download import NotOnServer, Unavailable
from osbuild.shared.files import read_file
from osbuild.shared.urls import redact_url


def read_text(sources: Sequence[str], *, limit: int, timeout: float = 30.0) -> tuple[str, str]:
    """Return the first of `sources`, URLs or paths, that has a small text file, and the text.

    `limit` is the largest size in bytes, `timeout` the longest time without data in seconds. Raises `NotOnServer` if
    the last source answered that it does not have the file, and `Unavailable` if no source could be read.
    """
    failures: list[tuple[str, RequestFailed]] = []
    for source in sources:
        try:
            data = _read(source, limit, timeout)
            return redact_url(source), data.decode()
        except UnicodeDecodeError:
            failures.append((redact_url(source), RequestFailed("is not a text file")))
        except RequestFailed as failure:
            failures.append((redact_url(source), failure))
    name = sources[-1].rpartition("/")[2]
    kind = NotOnServer if str(failures[-1][1]).startswith("HTTP 404") else Unavailable
    lines = [f"  {source}: {failure}" for source, failure in failures]
    raise kind("\n".join([f"cannot get {name}", *lines]), hint="check network and proxy (https_proxy)")


def _read(source: str, limit: int, timeout: float) -> bytes:
    """Return the bytes of one small file. Raises `RequestFailed`."""
    try:
        parts = urlsplit(source) if "://" in source else None
        _ = parts and parts.port
    except ValueError:
        raise RequestFailed("is not a URL: write special characters of a user or password as %XX") from None
    if parts is None or parts.scheme == "file":
        try:
            data = read_file(Path(urllib.request.url2pathname(parts.path) if parts else source))
        except OSError as error:
            raise RequestFailed(error.strerror or str(error)) from error
    elif parts.scheme in ("http", "https"):
        data = _read_url(source, limit, timeout)
    else:
        raise RequestFailed(f"{parts.scheme} is not supported: use http, https, file or a path")
    if len(data) > limit:
        raise RequestFailed(f"has more than {limit} bytes")
    return data


def _read_url(url: str, limit: int, timeout: float) -> bytes:
    pause = download.BACKOFF
    for attempt in range(1, download.ATTEMPTS + 1):
        try:
            with send_get(url, {"User-Agent": "edge-osbuild", "Accept-Encoding": "identity"}, timeout) as response:
                if response.status != HTTPStatus.OK:
                    again = response.status in download.AGAIN
                    raise RequestFailed(f"HTTP {response.status} {response.reason}".rstrip(), again=again)
                return _body(response, limit, timeout)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failure = RequestFailed(explain_error(error, timeout), again=True)
        except RequestFailed as error:
            failure = error
        if not failure.again or attempt == download.ATTEMPTS:
            break
        time.sleep(pause)
        pause *= 2
    raise failure


def _body(response: http.client.HTTPResponse, limit: int, timeout: float) -> bytes:
    """Return the body, at most `limit` + 1 bytes. Raises `RequestFailed` if the server is slower than `SLOWEST`."""
    data, total = b"", length(response.headers)
    end = time.monotonic() + timeout + limit / download.SLOWEST
    while len(data) <= limit and (more := response.read1(limit + 1 - len(data))):
        data += more
        if time.monotonic() > end:
            raise RequestFailed(
                f"too slow: {len(data)} bytes in {timeout + limit / download.SLOWEST:.0f} s", again=True
            )
    if total is not None and len(data) < min(total, limit + 1):
        raise RequestFailed(f"connection ended after {len(data)} of {total} bytes", again=True)
    return data
