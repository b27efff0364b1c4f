"""A bundle that is fetched as one file before it is installed: where most of it is new.

RAUC asks for each block of 4 KiB that the device lacks when it comes to it, one after the other. For an update of some
packages that saves most of the bundle; a new Kubernetes is tens of thousands of blocks, each of them a round trip.
"""

import errno
import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import state
from osbuild.agent.update.reason import NO_TIME, Failure, Reason, refusal
from osbuild.agent.update.report import Progress

ABOUT, FILE = state.DOWNLOAD  # the first says what the second is a part of
CHUNK = 2**20  # bytes
FLUSH = 16 * CHUNK  # bytes after which what has come is made safe: a power cut costs no more
NETWORK = "check the network and the server; what has come already is not fetched again"
OTHER = Reason("the server has another file now", "it is fetched from its beginning", False)
LARGE = Reason("the server sends more than the bundle can have", "check the address and the server")


class Another(Exception):
    """The server's file is not the one that was begun."""


def path(system: System) -> Path:
    """Where it is kept."""
    return state.place(system, FILE)


def have(system: System) -> int:
    """Bytes that are there already, of whatever bundle."""
    try:
        return path(system).stat().st_size
    except OSError:
        return 0


def fetch(
    system: System, url: str, identity: str, limit: int, end: float,
    progress: Progress, *, patience: float = 120.0,
) -> int:  # fmt: skip
    """Get the rest of the bundle; how many bytes that were. Raises `Failure`.

    `identity` names the bundle's contents: what was begun of another is thrown away. No more than `limit` bytes are
    kept. `end` is by time.monotonic(), `patience` in seconds without a byte. A server says what its file is by ETag or
    date, and sends the rest only of the same (RFC 9110, 13.1.5).
    """
    try:
        try:
            return go_on(system, url, identity, limit, end, progress, patience)
        except Another as problem:
            state.discard(system)
            raise Failure(OTHER) from problem
    except urllib.error.HTTPError as error:
        raise Failure(refusal(error.code)) from error
    except TimeoutError as error:
        raise Failure(Reason(f"the server sent nothing for {patience:.0f} s", NETWORK, False)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, socket.gaierror) as error:
        why = getattr(error, "reason", None) or error
        raise Failure(Reason(f"the connection was lost: {why}", NETWORK, False)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:  # the rest of the node needs room, too
            with suppress(OSError):
                state.discard(system)
        message = f"it can't be kept below {state.FOLDER}: {error.strerror or error}"
        raise Failure(Reason(message, "`edge-agent status` says how much is free")) from error


def go_on(
    system: System, url: str, identity: str, limit: int, end: float,
    progress: Progress, patience: float,
) -> int:  # fmt: skip
    """One request for what is not there yet. Raises `Failure`, `Another`, `OSError` and what http.client raises."""
    about = state.load(system, ABOUT)
    if about.get("identity") != identity:
        state.discard(system)
        about = {}
    begun, mark = have(system), about.get("mark", "")
    if begun and begun == about.get("size"):
        return 0
    headers = {"User-Agent": "edge-agent", "Accept-Encoding": "identity"}
    if begun and mark:
        headers |= {"Range": f"bytes={begun}-", "If-Range": mark}
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=patience)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise Another from error
        raise
    with answer:
        at, size = where(answer, begun)
        found = strong(answer.headers.get("ETag") or "") or answer.headers.get("Last-Modified") or ""
        if at and found != mark:  # it does not know If-Range
            raise Another
        if size is not None and size > limit:
            raise Failure(LARGE)
        if not at:  # what is there is of another file: after a power cut it must not pass for a part of this one
            state.remove(system, FILE)
        state.save(system, ABOUT, {"identity": identity, "mark": found, "size": size})
        return copy(answer, path(system), at, size, limit, end, progress)


def strong(mark: str) -> str:
    """An ETag that stands for the very bytes, else nothing (RFC 9110, 8.8.1)."""
    return "" if mark.startswith("W/") else mark


def where(answer: Any, begun: int) -> tuple[int, int | None]:
    """At which byte the answer begins, and how long the whole is. Raises `Another`."""
    length = answer.headers.get("Content-Length")
    if answer.status != http.client.PARTIAL_CONTENT:
        return 0, int(length) if length else None
    unit, _, rest = (answer.headers.get("Content-Range") or "").partition(" ")
    first, size = rest.partition("-")[0], rest.rpartition("/")[2]
    if unit != "bytes" or first != str(begun):
        raise Another
    return begun, int(size) if size.isdigit() else None


def copy(
    answer: Any, file: Path, at: int, size: int | None, limit: int, end: float,
    progress: Progress,
) -> int:  # fmt: skip
    """Append what comes, from byte `at` on. Raises `Failure` and `OSError`."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as output:
        output.truncate(at)
        output.seek(at)
        done = safe = at
        try:
            while data := answer.read1(CHUNK):  # not as many: a lost connection takes what is not complete
                if done + len(data) > limit:
                    raise Failure(LARGE)
                output.write(data)
                done += len(data)
                progress(100 * done // size if size else 0, "fetching the bundle", done - at)
                if time.monotonic() > end:
                    raise Failure(NO_TIME)
                if done - safe >= FLUSH:
                    os.fdatasync(output.fileno())
                    safe = done
        finally:
            os.fsync(output.fileno())
    if size is not None and done < size:
        raise Failure(Reason(f"the connection was lost after {done} of {size} bytes", NETWORK, False))
    return done - at
