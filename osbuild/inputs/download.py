"""Downloads from mirrors, or from a folder without a network. They are resumed, and verified before they are used."""

import errno
import http.client
import json
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from osbuild.host import log
from osbuild.host.cache import SCRATCH, Cache, keep_if_intact, move_if_intact
from osbuild.host.http import RequestFailed, explain_error, length, send_get, whole_number
from osbuild.host.scratch import remove_tree, scratch_folder
from osbuild.shared.errors import Error
from osbuild.shared.files import file_system_space
from osbuild.shared.json_text import parse_json
from osbuild.shared.sizes import format_decimal
from osbuild.shared.urls import redact_url

KIND = "downloads"  # of the cache's entries; the key is the sha256
ATTEMPTS = 4  # consecutive attempts without progress, per URL
PROGRESS = 2**20  # bytes that an attempt must download to count as progress
BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
SLOWEST = 1024  # bytes per second, averaged over the timeout; a slower server counts as hanging
LIMIT = 2**30  # bytes, if no size is known: an endless body must not fill the disk
CHUNK = 256 * 1024
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # status codes of temporary failures (RFC 9110, section 15)


class Unavailable(Error):
    """No source had the file. A source with the wrong content is a plain `Error`."""


class NotOnServer(Unavailable):
    """The last source answered that it does not have the file (HTTP 404)."""


class _WrongContent(RequestFailed):
    """A source had a file of this name with other content."""


@dataclass(frozen=True)
class PinnedFile:
    """A file that is known by its hash. `name` is for messages and folders; `size`, in bytes, is checked if given."""

    name: str
    sha256: str
    size: int | None = None

    @property
    def limit(self) -> int:
        """More bytes than the file can have are not accepted."""
        return LIMIT if self.size is None else self.size


@dataclass(frozen=True)
class _DownloadRequest:
    """A file that is downloaded; `timeout` is in seconds without data."""

    file: PinnedFile
    timeout: float


def download_file(
    urls: Sequence[str], file: PinnedFile, cache: Cache, *, folder: Path | None = None, timeout: float = 30.0
) -> Path:
    """Return the path of the file in the cache, downloaded if necessary.

    `urls` (http, https, file, or plain paths) are tried in order. `folder`, or $EDGE_OSBUILD_FOLDER, is searched first
    for a file with its name, the hash, or the last part of a URL. `timeout` is the longest time without data, in
    seconds. Raises `Unavailable` if no source has the file, `Error` if a source has it with another hash.
    """
    name, sha256 = file.name, file.sha256
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise Error(f"{sha256!r} is not a sha256 in hex", where=name)
    folder = folder or folder_from_environment()
    for url in urls:
        try:
            _ = urlsplit(url).port
        except ValueError:
            hint = "check host and port; write special characters of a user or password as %XX"
            raise Error(f"{redact_url(url)} is not a URL", where=name, hint=hint) from None
    goal = cache.folder(KIND) / sha256
    with cache.locked(f"{KIND}-{sha256}"):
        if keep_if_intact(goal, sha256):
            return goal
        failures: list[tuple[str, RequestFailed]] = []
        try:
            for source in [*_in_folder(folder, urls, sha256, name), *urls]:
                try:
                    _fetch(source, goal, _DownloadRequest(file, timeout))
                    return goal
                except RequestFailed as failure:
                    failures.append((redact_url(source), failure))
                    log.debug(f"{redact_url(source)}: {failure}")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                hint = "check permissions and disk of the cache, or set EDGE_OSBUILD_CACHE to another folder"
                raise Error(f"cannot write {goal}: {error.strerror}", where=name, hint=hint) from error
            _Part.of(goal).discard()  # the partial file would keep the disk full
            raise Error(
                f"no space left for {goal}",
                where=name,
                hint="free some space, or set EDGE_OSBUILD_CACHE to a folder on a larger disk",
            ) from error
    raise _summary(name, sha256, folder, failures)


def folder_from_environment() -> Path | None:
    """Return the folder for builds without a network, $EDGE_OSBUILD_FOLDER; None if it is not set."""
    named = os.environ.get("EDGE_OSBUILD_FOLDER")
    return Path(named) if named else None


def _summary(name: str, sha256: str, folder: Path | None, failures: Sequence[tuple[str, RequestFailed]]) -> Error:
    lines = [f"  {source}: {failure}" for source, failure in failures]
    if folder is not None and not any(source.startswith(str(folder)) for source, _ in failures):
        lines.insert(0, f"  {folder}: has no file {name} or {sha256}")
    if any(isinstance(failure, _WrongContent) for _, failure in failures):
        return Error(
            "\n".join([f"{name} is not the pinned file", *lines]),
            hint="if the new content is right, pin its hash; if not, do not trust this source",
        )
    return Unavailable(
        "\n".join([f"cannot get {name}", *lines]),
        hint=f"check network and proxy (https_proxy), or save the file in a folder as {name} and pass --from FOLDER",
    )


def _in_folder(folder: Path | None, urls: Sequence[str], sha256: str, name: str) -> Iterator[str]:
    names = [sha256, name, *(unquote(urlsplit(url).path).rpartition("/")[2] for url in urls)]
    for candidate in dict.fromkeys(names):
        if folder is not None and candidate and (folder / candidate).is_file():
            yield str(folder / candidate)


def _fetch(source: str, goal: Path, request: _DownloadRequest) -> None:
    """Get the file from one source, verify it and store it at `goal`. Raises `RequestFailed`."""
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        _download(source, goal, request)
    elif parts.scheme == "file":
        _copy(Path(urllib.request.url2pathname(parts.path)), goal, request.file.sha256)
    elif "://" not in source:
        _copy(Path(source), goal, request.file.sha256)
    else:
        raise RequestFailed(f"{parts.scheme} is not supported: use http, https, file or a path")


def _copy(source: Path, goal: Path, sha256: str) -> None:
    with scratch_folder(goal.parent, SCRATCH) as scratch:
        try:
            if not stat.S_ISREG(source.stat().st_mode):
                raise RequestFailed("is not a file")
            source.open("rb").close()
        except OSError as error:
            raise RequestFailed(error.strerror or str(error)) from error
        shutil.copyfile(source, scratch / "out")
        _publish(scratch / "out", goal, sha256)


def _publish(path: Path, goal: Path, sha256: str) -> None:
    digest = move_if_intact(path, goal, sha256)
    if digest != sha256:
        raise _WrongContent(f"sha256 is {digest}, expected {sha256}")


@dataclass(frozen=True)
class _Part:
    """A partial download: a folder with the data so far and a validator, which detects that the file has changed."""

    folder: Path

    @classmethod
    def of(cls, goal: Path) -> "_Part":
        """Return the partial download of the file `goal`."""
        return cls(goal.with_name(f"{goal.name}.part"))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def validator(self, url: str) -> str | None:
        """Return the entity tag or date that `url` sent with this data (RFC 9110, section 13.1.5), None without one."""
        try:
            stored = parse_json((self.folder / "validator").read_text())
            return str(stored["validator"]) if stored["url"] == redact_url(url) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def begin(self, url: str, headers: http.client.HTTPMessage) -> None:
        """Discard earlier data and store the server's validator of the new data."""
        self.discard()
        self.folder.mkdir()
        tag = headers.get("ETag", "")
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        if validator:
            (self.folder / "validator").write_text(json.dumps({"url": redact_url(url), "validator": validator}))

    def discard(self) -> None:
        remove_tree(self.folder)


def _download(url: str, goal: Path, request: _DownloadRequest) -> None:
    """Download one URL, with retries, until the file is complete and verified. A `.part` is kept to be resumed."""
    part, name = _Part.of(goal), request.file.name
    attempts_left, pause, best, start = ATTEMPTS, BACKOFF, 0, time.monotonic()
    while True:
        before = part.size()
        resumed = before > 0
        try:
            resumed = _transfer(url, part, request)
            _publish(part.data, goal, request.file.sha256)
            part.discard()
            log.note(f"{name}: {format_decimal(goal.stat().st_size)} downloaded in {time.monotonic() - start:.1f} s")
            return
        except RequestFailed as failure:
            if isinstance(failure, _WrongContent):
                part.discard()
                if resumed:  # the older part may be wrong: try once more from the beginning
                    continue
                raise
            best, gained = max(best, part.size()), part.size() - max(best, before)
            attempts_left = ATTEMPTS if gained >= PROGRESS else attempts_left - 1
            if not failure.again or attempts_left <= 0:
                raise
            log.note(f"{name}: {failure}; trying again")
            time.sleep(pause)
            pause = min(pause * 2, 8.0)


def _transfer(url: str, part: _Part, request: _DownloadRequest) -> bool:
    """Send one request and store its body. Returns whether the body was appended to data of an earlier request."""
    have, size = part.size(), request.file.size
    headers = {"User-Agent": "edge-osbuild", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator := part.validator(url):
            headers["If-Range"] = validator
    with send_get(url, headers, request.timeout) as response:
        total = length(response.headers)
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            content_range = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not have or content_range is None or whole_number(content_range[1]) != have:
                part.discard()
                raise RequestFailed("the server sent a range that was not requested", again=True)
            total = None if total is None else have + total
        elif response.status == HTTPStatus.OK:
            part.begin(url, response.headers)
            have = 0
        elif response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if have and response.headers.get("Content-Range") == f"bytes */{have}":
                return True  # nothing is missing; the hash decides
            part.discard()
            raise RequestFailed(
                "the server's file is shorter than the part that was downloaded before", again=bool(have)
            )
        else:
            raise RequestFailed(f"HTTP {response.status} {response.reason}".rstrip(), again=response.status in AGAIN)
        if total is not None and (total > request.file.limit if size is None else total != size):
            part.discard()
            raise _WrongContent(f"size is {total} bytes, expected {f'at most {LIMIT}' if size is None else size}")
        space = file_system_space(part.folder)
        if space is not None and space.free < (total or 0) - have:
            raise OSError(errno.ENOSPC, f"{space.free} bytes free")
        _receive(response, part, request, have, total)
        return have > 0


def _receive(
    response: http.client.HTTPResponse, part: _Part, request: _DownloadRequest, have: int, total: int | None
) -> None:
    """Append the body to `part`; `have` and `total` are bytes of the whole file."""
    timeout = request.timeout
    window, gained = time.monotonic(), 0
    with part.data.open("ab") as file, log.progress(request.file.name, total) as bar:
        bar.update(bar.task_ids[0], completed=have)
        while total is None or have < total:
            try:
                data = response.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise RequestFailed(f"{explain_error(error, timeout)} after {have} bytes", again=True) from error
            if not data:
                break
            file.write(data)
            have += len(data)
            gained += len(data)
            bar.update(bar.task_ids[0], advance=len(data))
            if have > request.file.limit:
                part.discard()
                raise _WrongContent(f"the server sends more than {request.file.limit} bytes")
            if (seconds := time.monotonic() - window) > timeout:
                if gained < SLOWEST * seconds:
                    raise RequestFailed(f"too slow: {gained} bytes in {seconds:.0f} s", again=True)
                window, gained = time.monotonic(), 0
    if total is not None and have < total:
        raise RequestFailed(f"connection ended after {have} of {total} bytes", again=True)
