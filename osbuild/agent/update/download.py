"""Download of a whole bundle before its installation, for bundles that are mostly new.

When RAUC streams a bundle, it requests each missing block of 4 KiB one after the other. That is good for small updates.
A new Kubernetes consists of tens of thousands of new blocks, and each of them would cost a round trip.
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

from osbuild.agent.http import ServerAddress, ServerToken, TlsFiles, open_request
from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.agent.update.failure import NO_TIME, Failure, Reason, http_refusal
from osbuild.agent.update.progress import ProgressCallback
from osbuild.shared.files import clear_way
from osbuild.shared.http_deadline import INVALID_ANSWERS

METADATA_FILE, BUNDLE_FILE = records.DOWNLOAD  # the first describes the second
TYPES = {"identity": str, "mark": str, "size": int}
NUMBER = re.compile(r"[0-9]{1,18}")
RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|[*])")  # RFC 9110, 14.4
PRINTABLE = re.compile(r"[ -~]{0,256}")
CHUNK = 2**20  # bytes
FLUSH = 16 * CHUNK  # bytes; the most that a power cut makes the device download again
NETWORK = "check the network and the server; downloaded parts are kept"
OTHER_FILE = Reason("the file on the server has changed", "the download starts again", False)
TOO_LARGE = Reason("the server sends more data than the bundle can have", "check the address and the server")


class OtherFile(Exception):
    """The file on the server is not the one that was partly downloaded."""


def download_path(system: System) -> Path:
    """The path of the downloaded file."""
    return records.state_path(system, BUNDLE_FILE)


def downloaded_bytes(system: System) -> int:
    """The size of the downloaded file in bytes, whichever bundle it belongs to."""
    try:
        return download_path(system).stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class BundleDownload:
    """The bundle to download from `url`; `identity` is a hash of its contents, `limit` its largest size in bytes.

    `end` is a deadline by time.monotonic(), `patience` the longest time in seconds without a byte.
    """

    url: str
    identity: str
    limit: int
    end: float
    patience: float = 120.0
    tls: TlsFiles | None = None
    token: ServerToken | None = None


def rename_download(system: System, identity: str) -> None:
    """Give the downloaded bundle another identity, when it is known. Raises `OSError`."""
    metadata = records.load_object(system, METADATA_FILE, TYPES)
    records.save_object(system, METADATA_FILE, {**metadata, "identity": identity})


def download_bundle(system: System, bundle: BundleDownload, progress: ProgressCallback) -> int:
    """Download the missing part of a bundle. Returns the number of downloaded bytes. Raises `Failure`.

    A partial download of a bundle with another identity is removed.
    """
    # The server identifies its file by ETag or date, and sends the rest only of the same file (RFC 9110, 13.1.5).
    try:
        try:
            return download_rest(system, bundle, progress)
        except OtherFile as problem:
            records.discard_download(system)
            raise Failure(OTHER_FILE) from problem
    except urllib.error.HTTPError as error:
        error.close()
        raise Failure(http_refusal(error.code)) from error
    except TimeoutError as error:
        if time.monotonic() >= bundle.end:
            raise Failure(NO_TIME) from error
        raise Failure(Reason(f"the server sent nothing for {bundle.patience:.0f} s", NETWORK, False)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, socket.gaierror) as error:
        if time.monotonic() >= bundle.end:
            raise Failure(NO_TIME) from error
        reason = ServerAddress(bundle.url).hide(str(getattr(error, "reason", None) or error))
        raise Failure(Reason(f"the connection was lost: {reason}", NETWORK, False)) from error
    except INVALID_ANSWERS as error:
        raise Failure(invalid_answer(ServerAddress(bundle.url).hide(str(error)))) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:  # the rest of the node needs the space
            with suppress(OSError):
                records.discard_download(system)
        message = f"the bundle cannot be stored in {records.FOLDER}: {error.strerror or error}"
        raise Failure(Reason(message, "`edge-agent status` shows the free space")) from error


def download_rest(system: System, bundle: BundleDownload, progress: ProgressCallback) -> int:
    """Request the missing part once. Raises `Failure`, `OtherFile`, `OSError` and exceptions of http.client."""
    metadata = records.load_object(system, METADATA_FILE, TYPES)
    if metadata.get("identity") != bundle.identity:
        records.discard_download(system)
        metadata = {}
    clear_way(download_path(system))
    present, mark = downloaded_bytes(system), metadata.get("mark") or ""
    if present and present == metadata.get("size"):
        return 0
    address = ServerAddress(bundle.url, bundle.tls, bundle.token)
    headers = {"User-Agent": "edge-agent", "Accept-Encoding": "identity"}
    if present and mark:
        headers |= {"Range": f"bytes={present}-", "If-Range": mark}
    request = urllib.request.Request(address.url, headers=headers)
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        with open_request(request, bundle.patience, bundle.end, context=address.make_context()) as answer:
            offset, size = answer_range(answer, present)
            new_mark = strong_validator(answer.headers.get("ETag") or "") or strong_validator(
                answer.headers.get("Last-Modified") or ""
            )
            if offset and new_mark != mark:  # the server does not support If-Range
                raise OtherFile
            if size is not None and size > bundle.limit:
                raise Failure(TOO_LARGE)
            if not offset:  # after a power cut, the old file must not be treated as a part of the new one
                records.remove_file(system, BUNDLE_FILE)
            records.save_object(system, METADATA_FILE, {"identity": bundle.identity, "mark": new_mark, "size": size})
            return append_body(system, answer, (offset, size), bundle, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise OtherFile from error
        raise


def strong_validator(mark: str) -> str:
    """A strong ETag or date (RFC 9110, 8.8.1) that can be sent back; otherwise an empty text."""
    return "" if mark.startswith("W/") or not PRINTABLE.fullmatch(mark) else mark


def invalid_answer(detail: str) -> Reason:
    """The reason for an answer that violates HTTP."""
    return Reason(f"the server's answer is invalid: {detail}", "check the address and the server", False)


def parse_bytes(text: str, name: str) -> int:
    """A number of bytes in a header. Raises `Failure`."""
    if not NUMBER.fullmatch(text):
        raise Failure(invalid_answer(f"{name} is {text[:40]!r}"))
    return int(text)


def answer_range(answer: Any, offset: int) -> tuple[int, int | None]:
    """(first byte of the answer, size of the file or None). Raises `OtherFile` and `Failure`."""
    length = answer.headers.get("Content-Length")
    if answer.status == http.client.OK:
        return 0, parse_bytes(length.strip(), "Content-Length") if length is not None else None
    if answer.status != http.client.PARTIAL_CONTENT:
        raise Failure(invalid_answer(f"its status is {answer.status}"))
    match = RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
    if match is None or int(match[1]) != offset:
        raise OtherFile
    if match[3] == "*":
        return offset, None
    if not offset <= int(match[2]) < int(match[3]):
        raise Failure(invalid_answer(f"Content-Range is {match[0]!r}"))
    return offset, int(match[3])


def append_body(
    system: System, answer: Any, expected: tuple[int, int | None], bundle: BundleDownload, progress: ProgressCallback
) -> int:
    """Write the body to the downloaded file. Returns the number of received bytes. Raises `Failure` and `OSError`.

    `expected` is the first byte of the body, and the size of the file or None.
    """
    offset, size = expected
    descriptor = os.open(download_path(system), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as output:
        output.truncate(offset)
        output.seek(offset)
        received = flushed = offset
        try:
            while data := answer.read1(CHUNK):  # read() would discard an incomplete chunk if the connection is lost
                if received + len(data) > bundle.limit:
                    raise Failure(TOO_LARGE)
                output.write(data)
                received += len(data)
                progress(100 * received // size if size else 0, "downloading the bundle", received - offset)
                if time.monotonic() > bundle.end:
                    raise Failure(NO_TIME)
                if received - flushed >= FLUSH:
                    os.fdatasync(output.fileno())
                    flushed = received
        finally:
            os.fsync(output.fileno())
    if time.monotonic() > bundle.end:  # the connection was shut down at the deadline
        raise Failure(NO_TIME)
    if size is not None and received < size:
        raise Failure(Reason(f"the connection was lost after {received} of {size} bytes", NETWORK, False))
    return received - offset
