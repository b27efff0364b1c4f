"""Files that are sent to clients, whole or in ranges (RFC 9110, section 14)."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

MOST_RANGES = 100
_RANGES = re.compile(
    r"\s*bytes\s*=\s*((?:\s*(?:\d{1,18}-\d{0,18}|-\d{1,18})\s*,)*\s*(?:\d{1,18}-\d{0,18}|-\d{1,18}))\s*", re.ASCII
)


def send_file(request: Request, path: Path, sha1: str) -> Response:
    """Return the answer that sends the file at `path`, or the ranges that the client asks for. `sha1` is its ETag."""
    tag, size = f'"{sha1}"', path.stat().st_size
    wanted = request.headers.get("if-match")
    if wanted is not None and tag not in [word.strip() for word in wanted.split(",")] and wanted.strip() != "*":
        return Response(status_code=412)
    ranges, condition = request.headers.get("range"), request.headers.get("if-range")
    if condition not in (None, tag):  # the whole file is sent
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    elif ranges is not None and not are_satisfiable(ranges, size):
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    return FileResponse(path, headers={"etag": tag}, media_type="application/octet-stream")


def are_satisfiable(header: str, size: int) -> bool:
    """Whether a Range header names ranges of a file of `size` bytes that do not overlap."""
    match = _RANGES.fullmatch(header)
    if match is None or match[1].count(",") >= MOST_RANGES:
        return False
    ranges = sorted(_bounds(part.strip(), size) for part in match[1].split(","))
    ends = [0, *(end for _, end in ranges)]
    return all(before <= begin < min(end, size) for (begin, end), before in zip(ranges, ends, strict=False))


def _bounds(part: str, size: int) -> tuple[int, int]:
    """Return the first byte of a range and the one after its last."""
    first, _, last = part.partition("-")
    if not first:
        return max(size - int(last), 0), size if int(last) else 0
    return int(first), min(int(last) + 1, size) if last else size
