"""A web server that fails in the ways networks and servers fail: for what streams bundles from it.

It listens on 127.0.0.1 only; a guest with a user-mode network reaches that as 10.0.2.2 (qemu(1), `-netdev user`).
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
# An endless body ends all the same: nobody should have read so much of it.
ENDLESS = 4 * 2**30
HUGE = 2**50
SECONDS = 30.0  # after which a connection that says nothing is given up


@dataclass(frozen=True)
class Fault:
    """What goes wrong; with the defaults, nothing.

    It begins once `after` bytes of bodies were served, and strikes at most `times` times (None: always): a request that
    is over before the fault could show does not count.
    """

    cut: int | None = None
    """the connection is reset after that many bytes of a body"""
    pace: int | None = None
    """bytes a second, of each connection"""
    drop: int | None = None
    """every so-manieth request is answered by a reset, before a word is said"""
    status: int | None = None
    """requests are answered by this status, such as 500"""
    hang: bool = False
    """a body stops half way, and the connection stays open"""
    endless: bool = False
    """the file says that it is huge, and goes on with zeroes"""
    longer: int = 0
    """what is added to Content-Length; the connection is closed at the body's real end"""
    no_ranges: bool = False
    """the whole file, whatever part was asked for"""
    after: int = 0
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """One that was answered: `first` is the first byte asked for, `sent` the bytes of the body that went out."""

    path: str
    method: str
    first: int
    status: int
    sent: int


@dataclass
class Journal:
    """What was asked for, and how much was served, in bytes of bodies."""

    requests: list[Request] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    struck: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        with self.lock:
            return sum(self.served.values())


class _Cut(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the journal has it."""

    def _answer(self, *, body: bool) -> None:
        site = cast(_Listener, self.server).site
        name = unquote(urlsplit(self.path).path)
        fault = site.strike(name)
        first, status, sent = 0, 0, 0
        try:
            if fault.drop:
                site.struck()
                raise _Cut
            path = site.file(name)
            if fault.status:
                site.struck()
            if fault.status or path is None:
                status = fault.status or HTTPStatus.NOT_FOUND
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = HUGE if fault.endless else path.stat().st_size
            asked = None if fault.no_ranges else RANGE.fullmatch(self.headers.get("Range", ""))
            first, last = part(asked[1], asked[2], size) if asked else (0, size - 1)
            if first > last:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                self.send_response(status)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
            self.send_response(status)
            self.send_header("Content-Length", str(last + 1 - first + fault.longer))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
            self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
            if not fault.no_ranges:
                self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if fault.pace or fault.endless or fault.no_ranges or fault.longer:
                site.struck()
            if body:
                for chunk in read(path, first, min(last, first + ENDLESS)):
                    self._send(chunk, fault, sent, last + 1 - first)
                    sent += len(chunk)
                    site.count(name, len(chunk))
                if fault.longer:
                    raise _Cut
        except _Cut:
            reset(self.connection)
            self.close_connection = True
        except OSError:  # the other side has gone, or this server was stopped
            self.close_connection = True
        finally:
            site.note(Request(name, self.command, first, int(status), sent))

    def _send(self, chunk: bytes, fault: Fault, sent: int, size: int) -> None:
        if fault.cut is not None and sent + len(chunk) > fault.cut:
            self.wfile.write(chunk[: fault.cut - sent])
            cast(_Listener, self.server).site.struck()
            raise _Cut
        if fault.hang and sent + len(chunk) > size // 2:
            cast(_Listener, self.server).site.struck()
            cast(_Listener, self.server).site.stopped.wait(SECONDS * 20)
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
        """A connection that ends early is what this server is for."""


class Site:
    """Serves the files of `folder` for the time of a `with` block; `fault` may be changed at any time.

    `published` are files from elsewhere: path on the server -> file.
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
        """Where a file is, by default as a guest sees it."""
        return f"http://{host}:{self.port}/{name}"

    def publish(self, path: Path, name: str | None = None) -> str:
        """Serve a file from anywhere; its URL as a guest sees it."""
        self.published["/" + (name or path.name)] = path
        return self.url(name or path.name)

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self.stopped.clear()
        self._listener = _Listener(self, self.port)
        self.port = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Reset every connection, and take no more."""
        self.stopped.set()
        if self._listener and self._thread:
            self._listener.shutdown()
            self._thread.join()
            for connection in list(self._listener.open):
                reset(connection)
            self._listener.server_close()
            self._listener = None

    def restart(self, pause: float) -> None:
        """Be gone for `pause` seconds."""
        self.stop()
        time.sleep(pause)
        self.start()

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Fail that way for the time of the block; what `after` and `times` count begins now."""
        before, self.fault = self.fault, fault
        self.journal = Journal()
        try:
            yield
        finally:
            self.fault = before

    # --- for the handlers

    def file(self, name: str) -> Path | None:
        """The file that a path means, None where there is none."""
        if name in self.published:
            return self.published[name]
        path = (self.folder / name.lstrip("/")).resolve()
        return path if path.is_file() and path.is_relative_to(self.folder.resolve()) else None

    def strike(self, name: str) -> Fault:
        """The fault that this request meets."""
        fault, journal = self.fault, self.journal
        with journal.lock:
            self._asked += 1
            due = sum(journal.served.values()) >= fault.after and (fault.times is None or journal.struck < fault.times)
            if fault.drop:
                due = due and self._asked % fault.drop == 0
            if not due or fault == Fault():
                return Fault()
        return fault

    def struck(self) -> None:
        """The fault has shown itself once."""
        with self.journal.lock:
            self.journal.struck += 1

    def count(self, name: str, size: int) -> None:
        with self.journal.lock:
            self.journal.served[name] += size

    def note(self, request: Request) -> None:
        with self.journal.lock:
            self.journal.requests.append(request)


def part(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte of a range (RFC 9110, section 14.1.2); the first is above the last where there is none."""
    if not first:
        return (max(0, size - int(last)), size - 1) if last and int(last) else (1, 0)
    return int(first), min(size - 1, int(last)) if last else size - 1


def read(path: Path, first: int, last: int) -> Iterator[bytes]:
    """Bytes of a file, zeroes after its end."""
    with path.open("rb") as file:
        file.seek(first)
        while first <= last:
            wanted = min(CHUNK, last + 1 - first)
            chunk = file.read(wanted).ljust(wanted, b"\0")
            yield chunk
            first += wanted


def reset(connection: socket.socket) -> None:
    """End a connection as a broken network does: with RST, and whatever was not sent yet is lost (socket(7))."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
