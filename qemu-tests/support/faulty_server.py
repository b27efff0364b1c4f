"""A web server that fails like real networks and servers, for devices that stream bundles from it.

It listens on 127.0.0.1 only; a guest with a user-mode network reaches it as 10.0.2.2 (qemu(1), `-netdev user`).
"""

import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import unquote, urlsplit

GUEST = "10.0.2.2"
CHUNK = 64 * 1024
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# The size of an endless body: no client should read as much.
ENDLESS = 4 * 2**30
HUGE = 2**50
TIMEOUT = 30.0  # until a silent connection is closed


@dataclass(frozen=True)
class Fault:
    """A fault of the server; the default has none.

    It begins once `after` bytes of bodies were sent, and occurs at most `times` times (None: always). A request that
    ends before the fault occurs does not count.
    """

    cut: int | None = None
    """the connection is reset after this many bytes of a body"""
    pace: int | None = None
    """bytes per second of each connection"""
    drop: int | None = None
    """every request with a multiple of this number is reset before any answer"""
    status: int | None = None
    """requests are answered with this status, such as 500"""
    hang: bool = False
    """a body stops halfway, and the connection stays open"""
    endless: bool = False
    """the file has a huge Content-Length, and is continued with zeroes"""
    longer: int = 0
    """bytes added to Content-Length; the connection is closed at the real end of the body"""
    no_ranges: bool = False
    """the whole file is sent, whatever range was requested"""
    after: int = 0
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """An answered request: `first` is the first requested byte, `sent` the number of bytes of the body."""

    path: str
    method: str
    first: int
    status: int
    sent: int


@dataclass
class Journal:
    """All requests, the bytes of bodies that were sent for each path, and how often the fault occurred."""

    requests: list[Request] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    strikes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        with self.lock:
            return sum(self.served.values())


class _Cut(Exception):
    """Ends the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the journal has all requests."""

    def _answer(self, *, body: bool) -> None:
        site = cast(_Listener, self.server).site
        name = unquote(urlsplit(self.path).path)
        fault = site.next_fault(name)
        first, status, sent = 0, 0, 0
        try:
            if fault.drop:
                site.count_strike()
                raise _Cut
            path = site.file(name)
            if fault.status:
                site.count_strike()
            if fault.status or path is None:
                status = fault.status or HTTPStatus.NOT_FOUND
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = HUGE if fault.endless else path.stat().st_size
            requested_range = None if fault.no_ranges else RANGE.fullmatch(self.headers.get("Range", ""))
            first, last = (
                parse_range(requested_range[1], requested_range[2], size) if requested_range else (0, size - 1)
            )
            if first > last:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                self.send_response(status)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = HTTPStatus.PARTIAL_CONTENT if requested_range else HTTPStatus.OK
            self.send_response(status)
            self.send_header("Content-Length", str(last + 1 - first + fault.longer))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
            self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
            if not fault.no_ranges:
                self.send_header("Accept-Ranges", "bytes")
            if requested_range:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if fault.pace or fault.endless or fault.no_ranges or fault.longer:
                site.count_strike()
            if body:
                for chunk in read_chunks(path, first, min(last, first + ENDLESS)):
                    self._send(chunk, fault, sent, last + 1 - first)
                    sent += len(chunk)
                    site.count(name, len(chunk))
                if fault.longer:
                    raise _Cut
        except _Cut:
            reset_connection(self.connection)
            self.close_connection = True
        except OSError:  # the client has disconnected, or this server was stopped
            self.close_connection = True
        finally:
            site.record_request(Request(name, self.command, first, int(status), sent))

    def _send(self, chunk: bytes, fault: Fault, sent: int, size: int) -> None:
        if fault.cut is not None and sent + len(chunk) > fault.cut:
            self.wfile.write(chunk[: fault.cut - sent])
            cast(_Listener, self.server).site.count_strike()
            raise _Cut
        if fault.hang and sent + len(chunk) > size // 2:
            cast(_Listener, self.server).site.count_strike()
            cast(_Listener, self.server).site.stopped.wait(TIMEOUT * 20)
            raise _Cut
        if fault.pace:
            slice_size = max(1, fault.pace // 20)
            for begin in range(0, len(chunk), slice_size):
                self.wfile.write(chunk[begin : begin + slice_size])
                time.sleep(len(chunk[begin : begin + slice_size]) / fault.pace)
        else:
            self.wfile.write(chunk)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, site: "Site", port: int) -> None:
        self.site = site
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: connections that end early are the purpose of this server."""


class Site:
    """Serves the files of `folder` until the end of a `with` block; `fault` may be changed at any time.

    `published` maps paths on the server to files outside of `folder`.
    """

    def __init__(self, folder: Path, fault: Fault | None = None) -> None:
        self.folder = folder
        self.fault = fault or Fault()
        self.published: dict[str, Path] = {}
        self.journal = Journal()
        self.stopped = threading.Event()
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        self._asked = 0
        self.port = 0

    def __enter__(self) -> "Site":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, name: str, *, host: str = GUEST) -> str:
        """Return the URL of a file, by default for a guest."""
        return f"http://{host}:{self.port}/{name}"

    def publish(self, path: Path, name: str | None = None) -> str:
        """Serve any file, and return its URL for a guest."""
        self.published["/" + (name or path.name)] = path
        return self.url(name or path.name)

    def start(self) -> None:
        """Listen, after a stop on the same port."""
        self.stopped.clear()
        self._listener = _Listener(self, self.port)
        self.port = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Reset every connection, and accept no more."""
        self.stopped.set()
        if self._listener and self._thread:
            self._listener.shutdown()
            self._thread.join()
            for connection in list(self._listener.open):
                reset_connection(connection)
            self._listener.server_close()
            self._listener = None

    def restart(self, pause: float) -> None:
        """Stop for `pause` seconds."""
        self.stop()
        time.sleep(pause)
        self.start()

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Fail with `fault` until the end of the block; `after` and `times` count from now on."""
        before, self.fault = self.fault, fault
        self.journal = Journal()
        try:
            yield
        finally:
            self.fault = before

    # --- for the handlers

    def file(self, name: str) -> Path | None:
        """Return the file of a path; None if there is none."""
        if name in self.published:
            return self.published[name]
        path = (self.folder / name.lstrip("/")).resolve()
        return path if path.is_file() and path.is_relative_to(self.folder.resolve()) else None

    def next_fault(self, name: str) -> Fault:
        """Return the fault of the next request."""
        fault, journal = self.fault, self.journal
        with journal.lock:
            self._asked += 1
            due = sum(journal.served.values()) >= fault.after and (fault.times is None or journal.strikes < fault.times)
            if fault.drop:
                due = due and self._asked % fault.drop == 0
            if not due or fault == Fault():
                return Fault()
        return fault

    def count_strike(self) -> None:
        """Count one occurrence of the fault."""
        with self.journal.lock:
            self.journal.strikes += 1

    def count(self, name: str, size: int) -> None:
        with self.journal.lock:
            self.journal.served[name] += size

    def record_request(self, request: Request) -> None:
        with self.journal.lock:
            self.journal.requests.append(request)


def parse_range(first: str, last: str, size: int) -> tuple[int, int]:
    """Return first and last byte of a range (RFC 9110, section 14.1.2); the first is above the last if it is empty."""
    if not first:
        return (max(0, size - int(last)), size - 1) if last and int(last) else (1, 0)
    return int(first), min(size - 1, int(last)) if last else size - 1


def read_chunks(path: Path, first: int, last: int) -> Iterator[bytes]:
    """Yield bytes of a file, and zeroes after its end."""
    with path.open("rb") as file:
        file.seek(first)
        while first <= last:
            size = min(CHUNK, last + 1 - first)
            chunk = file.read(size).ljust(size, b"\0")
            yield chunk
            first += size


def reset_connection(connection: socket.socket) -> None:
    """Reset a connection: send RST, and discard data that was not sent yet (socket(7))."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
