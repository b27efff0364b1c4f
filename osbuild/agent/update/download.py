"""A bundle that is fetched as one file before it is installed: where most of it is new.

RAUC asks for each block of 4 KiB that the device lacks when it comes to it, one after the other. For an update of some
packages that saves most of the bundle; a new Kubernetes is tens of thousands of blocks, each of them a round trip.
"""

import errno
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from osbuild.agent.system import System, clear
from osbuild.agent.update import state
from osbuild.agent.update.reason import NO_TIME, Failure, Reason, refusal
from osbuild.agent.update.report import Progress
from osbuild.agent.web import SENSELESS, Address, opened

ABOUT, FILE = state.DOWNLOAD  # the first says what the second is a part of
TYPES = {"identity": str, "mark": str, "size": int}
NUMBER = re.compile(r"[0-9]{1,18}")
RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|[*])")  # RFC 9110, 14.4
PRINTABLE = re.compile(r"[ -~]{0,256}")
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
    """Get the rest of the bundle at `url`, an address; how many bytes that were. Raises `Failure`.

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
        error.close()
        raise Failure(refusal(error.code)) from error
    except TimeoutError as error:
        if time.monotonic() >= end:
            raise Failure(NO_TIME) from error
        raise Failure(Reason(f"the server sent nothing for {patience:.0f} s", NETWORK, False)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, socket.gaierror) as error:
        if time.monotonic() >= end:
            raise Failure(NO_TIME) from error
        why = Address(url).hide(str(getattr(error, "reason", None) or error))
        raise Failure(Reason(f"the connection was lost: {why}", NETWORK, False)) from error
    except SENSELESS as error:
        raise Failure(senseless(Address(url).hide(str(error)))) from error
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
    about = state.load(system, ABOUT, TYPES)
    if about.get("identity") != identity:
        state.discard(system)
        about = {}
    clear(path(system))
    begun, mark = have(system), about.get("mark") or ""
    if begun and begun == about.get("size"):
        return 0
    address = Address(url)
    headers = {"User-Agent": "edge-agent", "Accept-Encoding": "identity"}
    if begun and mark:
        headers |= {"Range": f"bytes={begun}-", "If-Range": mark}
    request = urllib.request.Request(address.url, headers=headers)
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        with opened(request, patience, end) as answer:
            at, size = where(answer, begun)
            found = strong(answer.headers.get("ETag") or "") or strong(answer.headers.get("Last-Modified") or "")
            if at and found != mark:  # it does not know If-Range
                raise Another
            if size is not None and size > limit:
                raise Failure(LARGE)
            if not at:  # what is there is of another file: after a power cut it must not pass for a part of this one
                state.remove(system, FILE)
            state.save(system, ABOUT, {"identity": identity, "mark": found, "size": size})
            return copy(answer, path(system), at, size, limit, end, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise Another from error
        raise


def strong(mark: str) -> str:
    """An ETag that stands for the very bytes, else nothing (RFC 9110, 8.8.1); nor one that can't be sent back."""
    return "" if mark.startswith("W/") or not PRINTABLE.fullmatch(mark) else mark


def senseless(what: str) -> Reason:
    """An answer that is not as HTTP says."""
    return Reason(f"the server's answer makes no sense: {what}", "check the address and the server", False)


def number(text: str, name: str) -> int:
    """A number of bytes in a header. Raises `Failure`."""
    if not NUMBER.fullmatch(text):
        raise Failure(senseless(f"{name} is {text[:40]!r}"))
    return int(text)


def where(answer: Any, begun: int) -> tuple[int, int | None]:
    """At which byte the answer begins, and how long the whole is. Raises `Another` and `Failure`."""
    length = answer.headers.get("Content-Length")
    if answer.status == http.client.OK:
        return 0, number(length.strip(), "Content-Length") if length is not None else None
    if answer.status != http.client.PARTIAL_CONTENT:
        raise Failure(senseless(f"its status is {answer.status}"))
    found = RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
    if found is None or int(found[1]) != begun:
        raise Another
    if found[3] == "*":
        return begun, None
    if not begun <= int(found[2]) < int(found[3]):
        raise Failure(senseless(f"Content-Range is {found[0]!r}"))
    return begun, int(found[3])


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
    if time.monotonic() > end:  # the connection was ended then
        raise Failure(NO_TIME)
    if size is not None and done < size:
        raise Failure(Reason(f"the connection was lost after {done} of {size} bytes", NETWORK, False))
    return done - at
