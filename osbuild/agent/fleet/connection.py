"""Requests of a device to its update server: JSON over TLS, with the certificate of the device."""

import http.client
import json
import random
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from osbuild.agent.http import open_request
from osbuild.shared.http_deadline import INVALID_ANSWERS
from osbuild.shared.json_text import parse_json

PATIENCE = 60.0  # seconds without an answer
LARGEST_ANSWER = 256 * 1024  # bytes
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds between two attempts


class ServerUnreachable(Exception):
    """The server gave no usable answer. The message says why."""


@dataclass(frozen=True)
class ServerAnswer:
    """The status of an answer, and its document; empty if it has none."""

    status: int
    document: dict[str, Any]


@dataclass(frozen=True)
class FleetServer:
    """An update server. `base` is the address of this device on it.

    The device proves who it is with the certificate of `context`, or with `authorization`, the header of that name.
    """

    base: str
    context: ssl.SSLContext
    authorization: str = ""

    def get(self, address: str = "") -> ServerAnswer:
        """Return what is at an address of the server, or at that of the device. Raises `ServerUnreachable`."""
        return self._send("GET", address or self.base, None)

    def send(self, method: str, address: str, document: dict[str, Any]) -> ServerAnswer:
        """Send a document. Raises `ServerUnreachable`."""
        return self._send(method, address, json.dumps(document).encode())

    def upload(self, address: str, data: bytes) -> ServerAnswer:
        """Send a compressed archive. Raises `ServerUnreachable`."""
        return self._send("PUT", address, data, "application/gzip")

    def owns(self, address: str) -> bool:
        """Whether an address is on this server. Credentials are sent nowhere else."""
        own, other = urlsplit(self.base), urlsplit(address)
        return (own.scheme, own.netloc) == (other.scheme, other.netloc)

    def _send(self, method: str, address: str, body: bytes | None, kind: str = "application/json") -> ServerAnswer:
        if not self.owns(address):
            raise ServerUnreachable("the server names an address of another server")
        headers = {"Accept": "application/hal+json", **({"Content-Type": kind} if body else {})}
        request = urllib.request.Request(address, body, headers, method=method)
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            with open_request(
                request, PATIENCE, time.monotonic() + PATIENCE, redirects=False, context=self.context
            ) as answer:
                return ServerAnswer(answer.status, read_document(answer))
        except urllib.error.HTTPError as error:
            error.close()
            return ServerAnswer(error.code, {})
        except (OSError, *INVALID_ANSWERS) as error:
            raise ServerUnreachable(str(getattr(error, "reason", None) or error)) from error


def read_document(answer: http.client.HTTPResponse) -> dict[str, Any]:
    """Return the JSON object of an answer; empty if it has none. Raises `ServerUnreachable`."""
    data = answer.read(LARGEST_ANSWER + 1)
    if not data:
        return {}
    if len(data) > LARGEST_ANSWER:
        raise ServerUnreachable(f"the answer has more than {LARGEST_ANSWER} bytes")
    try:
        document = parse_json(data.decode())
    except ValueError as error:
        raise ServerUnreachable("the answer is not JSON") from error
    if not isinstance(document, dict):
        raise ServerUnreachable("the answer is not a JSON object")
    return document


def next_pause(failures: int) -> float:
    """Return the seconds to wait after a number of failed attempts: twice as long each time, by half at random.

    So devices that have lost their server together do not come back together.
    """
    longest = min(FIRST_PAUSE * 2 ** min(failures, 16), LONGEST_PAUSE)
    return float(longest * random.uniform(0.5, 1.0))
