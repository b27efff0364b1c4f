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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.http import INVALID_ANSWERS, ServerAddress, open_request
from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.agent.update.failure import NO_TIME, Failure, Reason, http_refusal
from osbuild.agent.update.progress import ProgressCallback
from osbuild.shared.files import clear_way

METADATA_FILE, BUNDLE_FILE = records.DOWNLOAD  # the first says what the second is a part of
TYPES = {"identity": str, "mark": str, "size": int}
NUMBER = re.compile(r"[0-9]{1,18}")
RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|[*])")  # RFC 9110, 14.4
PRINTABLE = re.compile(r"[ -~]{0,256}")
CHUNK = 2**20  # bytes
FLUSH = 16 * CHUNK  # bytes after which what has come is made safe: a power cut costs no more
NETWORK = "check the network and the server; what has come already is not fetched again"
OTHER_FILE = Reason("the server has another file now", "it is fetched from its beginning", False)
TOO_LARGE = Reason("the server sends more than the bundle can have", "check the address and the server")


class OtherFile(Exception):
    """The server's file is not the one that was begun."""


def download_path(system: System) -> Path:
    """Where it is kept."""
    return records.state_path(system, BUNDLE_FILE)


def downloaded_bytes(system: System) -> int:
    """Bytes that are there already, of whatever bundle."""
    try:
        return download_path(system).stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class BundleDownload:
    """What is downloaded: the bundle at `url`, of which no more than `limit` bytes are kept.

    `identity` names the bundle's contents. `end` is by time.monotonic(), `patience` in seconds without a byte.
    """

    url: str
    identity: str
    limit: int
    end: float
    patience: float = 120.0


def download_bundle(system: System, wanted: BundleDownload, progress: ProgressCallback) -> int:
    """Get the rest of a bundle; how many bytes that were. Raises `Failure`.

    What was begun of a bundle with another identity is thrown away. A server says what its file is by ETag or
    date, and sends the rest only of the same (RFC 9110, 13.1.5).
    """
    try:
        try:
            return download_rest(system, wanted, progress)
        except OtherFile as problem:
            records.discard_download(system)
            raise Failure(OTHER_FILE) from problem
    except urllib.error.HTTPError as error:
        error.close()
        raise Failure(http_refusal(error.code)) from error
    except TimeoutError as error:
        if time.monotonic() >= wanted.end:
            raise Failure(NO_TIME) from error
        raise Failure(Reason(f"the server sent nothing for {wanted.patience:.0f} s", NETWORK, False)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, socket.gaierror) as error:
        if time.monotonic() >= wanted.end:
            raise Failure(NO_TIME) from error
        why = ServerAddress(wanted.url).hide(str(getattr(error, "reason", None) or error))
        raise Failure(Reason(f"the connection was lost: {why}", NETWORK, False)) from error
    except INVALID_ANSWERS as error:
        raise Failure(invalid_answer(ServerAddress(wanted.url).hide(str(error)))) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:  # the rest of the node needs room, too
            with suppress(OSError):
                records.discard_download(system)
        message = f"it can't be kept below {records.FOLDER}: {error.strerror or error}"
        raise Failure(Reason(message, "`edge-agent status` says how much is free")) from error


def download_rest(system: System, wanted: BundleDownload, progress: ProgressCallback) -> int:
    """One request for what is not there yet. Raises `Failure`, `OtherFile`, `OSError` and what http.client raises."""
    about = records.load_object(system, METADATA_FILE, TYPES)
    if about.get("identity") != wanted.identity:
        records.discard_download(system)
        about = {}
    clear_way(download_path(system))
    begun, mark = downloaded_bytes(system), about.get("mark") or ""
    if begun and begun == about.get("size"):
        return 0
    address = ServerAddress(wanted.url)
    headers = {"User-Agent": "edge-agent", "Accept-Encoding": "identity"}
    if begun and mark:
        headers |= {"Range": f"bytes={begun}-", "If-Range": mark}
    request = urllib.request.Request(address.url, headers=headers)
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        with open_request(request, wanted.patience, wanted.end) as answer:
            at, size = answer_range(answer, begun)
            found = strong_validator(answer.headers.get("ETag") or "") or strong_validator(
                answer.headers.get("Last-Modified") or ""
            )
            if at and found != mark:  # it does not know If-Range
                raise OtherFile
            if size is not None and size > wanted.limit:
                raise Failure(TOO_LARGE)
            if not at:  # what is there is of another file: after a power cut it must not pass for a part of this one
                records.remove_file(system, BUNDLE_FILE)
            records.save_object(system, METADATA_FILE, {"identity": wanted.identity, "mark": found, "size": size})
            return append_body(system, answer, (at, size), wanted, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise OtherFile from error
        raise


def strong_validator(mark: str) -> str:
    """An ETag that stands for the very bytes, else nothing (RFC 9110, 8.8.1); nor one that can't be sent back."""
    return "" if mark.startswith("W/") or not PRINTABLE.fullmatch(mark) else mark


def invalid_answer(what: str) -> Reason:
    """An answer that is not as HTTP says."""
    return Reason(f"the server's answer makes no sense: {what}", "check the address and the server", False)


def parse_bytes(text: str, name: str) -> int:
    """A number of bytes in a header. Raises `Failure`."""
    if not NUMBER.fullmatch(text):
        raise Failure(invalid_answer(f"{name} is {text[:40]!r}"))
    return int(text)


def answer_range(answer: Any, begun: int) -> tuple[int, int | None]:
    """At which byte the answer begins, and how long the whole is. Raises `OtherFile` and `Failure`."""
    length = answer.headers.get("Content-Length")
    if answer.status == http.client.OK:
        return 0, parse_bytes(length.strip(), "Content-Length") if length is not None else None
    if answer.status != http.client.PARTIAL_CONTENT:
        raise Failure(invalid_answer(f"its status is {answer.status}"))
    match = RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
    if match is None or int(match[1]) != begun:
        raise OtherFile
    if match[3] == "*":
        return begun, None
    if not begun <= int(match[2]) < int(match[3]):
        raise Failure(invalid_answer(f"Content-Range is {match[0]!r}"))
    return begun, int(match[3])


def append_body(
    system: System, answer: Any, expected: tuple[int, int | None], wanted: BundleDownload, progress: ProgressCallback
) -> int:
    """Append what comes: from byte `expected[0]` on, of a file of `expected[1]` bytes if that is known.

    Raises `Failure` and `OSError`.
    """
    at, size = expected
    descriptor = os.open(download_path(system), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as output:
        output.truncate(at)
        output.seek(at)
        done = safe = at
        try:
            while data := answer.read1(CHUNK):  # not as many: a lost connection takes what is not complete
                if done + len(data) > wanted.limit:
                    raise Failure(TOO_LARGE)
                output.write(data)
                done += len(data)
                progress(100 * done // size if size else 0, "fetching the bundle", done - at)
                if time.monotonic() > wanted.end:
                    raise Failure(NO_TIME)
                if done - safe >= FLUSH:
                    os.fdatasync(output.fileno())
                    safe = done
        finally:
            os.fsync(output.fileno())
    if time.monotonic() > wanted.end:  # the connection was ended then
        raise Failure(NO_TIME)
    if size is not None and done < size:
        raise Failure(Reason(f"the connection was lost after {done} of {size} bytes", NETWORK, False))
    return done - at
