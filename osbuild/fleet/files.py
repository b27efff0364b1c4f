"""Files that are sent to clients, whole or in ranges (RFC 9110, section 14)."""

import os
import re
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from osbuild.fleet.refusal import Refused

MOST_RANGES = 100
RETRY_AFTER = 300  # seconds until a client asks again for a file that is missing
SMALL_RANGE = 2**20  # bytes that are sent in one piece; RAUC asks for 128 KiB
BINARY = "application/octet-stream"
_RANGES = re.compile(
    r"\s*bytes\s*=\s*((?:\s*(?:\d{1,18}-\d{0,18}|-\d{1,18})\s*,)*\s*(?:\d{1,18}-\d{0,18}|-\d{1,18}))\s*", re.ASCII
)


async def send_file(request: Request, path: Path, sha1: str) -> Response:
    """Return the answer that sends the file at `path`, or the ranges that the client asks for. `sha1` is its ETag.

    Raises `Refused` if the file is missing.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:  # it was left out of a backup, or somebody has deleted it
        message = "the file of this bundle is missing on the server: publish the same file again"
        raise Refused(503, "bundle-file-missing", message, RETRY_AFTER) from error
    tag = f'"{sha1}"'
    wanted = request.headers.get("if-match")
    if wanted is not None and tag not in [word.strip() for word in wanted.split(",")] and wanted.strip() != "*":
        return Response(status_code=412)
    ranges, condition = request.headers.get("range"), request.headers.get("if-range")
    if condition not in (None, tag):  # the whole file is sent
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    elif ranges is not None:
        bounds = parse_ranges(ranges, size)
        if bounds is None:
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        begin, end = bounds[0]
        if len(bounds) == 1 and end - begin <= SMALL_RANGE:
            headers = {"etag": tag, "content-range": f"bytes {begin}-{end - 1}/{size}", "accept-ranges": "bytes"}
            return Response(await read_range(path, begin, end), 206, headers, media_type=BINARY)
    return FileResponse(path, headers={"etag": tag}, media_type=BINARY)


async def read_range(path: Path, begin: int, end: int) -> memoryview:
    """Return a part of a file: at once if it is in the page cache, otherwise read by another thread."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = memoryview(bytearray(end - begin))
        try:
            if os.preadv(descriptor, [data], begin, os.RWF_NOWAIT) == len(data):
                return data
        except OSError:  # not in the page cache, or a file system without this flag (preadv2(2))
            pass
        return memoryview(await run_in_threadpool(_read_all, descriptor, begin, end))
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, begin: int, end: int) -> bytes:
    parts = []
    while begin < end and (part := os.pread(descriptor, end - begin, begin)):
        parts.append(part)
        begin += len(part)
    return b"".join(parts)


def parse_ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges of a Range header, in their order in the file of `size` bytes: first byte, byte after the last.

    None if one of them is malformed, empty or outside of the file, or if they overlap.
    """
    match = _RANGES.fullmatch(header)
    if match is None or match[1].count(",") >= MOST_RANGES:
        return None
    ranges = sorted(_bounds(part.strip(), size) for part in match[1].split(","))
    ends = [0, *(end for _, end in ranges)]
    fit = all(before <= begin < min(end, size) for (begin, end), before in zip(ranges, ends, strict=False))
    return ranges if fit else None


def _bounds(part: str, size: int) -> tuple[int, int]:
    """Return the first byte of a range and the one after its last."""
    first, _, last = part.partition("-")
    if not first:
        return max(size - int(last), 0), size if int(last) else 0
    return int(first), min(int(last) + 1, size) if last else size
