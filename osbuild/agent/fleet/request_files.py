"""The files by which the two parts of the agent hand each other an operator's request and its result.

The unprivileged part writes the signed request. systemd sees it (edge-fleet-request.path) and starts the part that runs
as root, which writes the result into a folder of its own.
"""

import hashlib
import json
import os
import pwd
import shutil
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from osbuild.agent import state_files
from osbuild.agent.fleet.identity import COPIES, USER
from osbuild.agent.fleet.request_record import RequestStage
from osbuild.agent.system import System
from osbuild.shared.files import make_folder, read_start, write_file
from osbuild.shared.operator_requests import LARGEST_ARCHIVE, LARGEST_REQUEST

REQUEST_FILE = "/run/edge-fleet/request.pem"
REPORTED_FILE = "/run/edge-fleet/reported.json"
RESULT_FILE = f"{COPIES}/request.json"  # in a folder of root
ARCHIVE_FILE = f"{COPIES}/diagnostics.tar.gz"
TYPES = {"digest": str, "stage": str, "details": list, "archive": bool}


@dataclass(frozen=True)
class StoredResult:
    """What root has done about the request with the SHA-256 `digest`. With `archive`, there are diagnostics."""

    digest: str
    stage: RequestStage
    details: tuple[str, ...] = ()
    archive: bool = False


def digest_request(data: bytes) -> str:
    """Return the SHA-256 of a signed request in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def offer_request(system: System, data: bytes) -> None:
    """Hand a signed request to root. Raises `OSError`."""
    write_file(system.path(REQUEST_FILE), data, 0o600)


def take_request(system: System) -> bytes | None:
    """Return the signed request that was offered, and remove it; None if there is none. Raises `OSError`.

    The folder belongs to another user, who may have put anything there: a link, a pipe, a folder, a huge file. What is
    not a file of a plausible size is removed too, and counts as an empty request.
    """
    path = system.path(REQUEST_FILE)
    try:
        data = read_start(path, LARGEST_REQUEST + 1, links=False)
    except FileNotFoundError:
        if not os.path.lexists(path):
            return None
        data = b""
    except OSError:
        data = b""
    remove_anything(path)
    return data if len(data) <= LARGEST_REQUEST else b""


def remove_anything(path: Path) -> None:
    """Remove what is at `path`, without following links. Raises `OSError`."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def store_result(system: System, result: StoredResult) -> None:
    """Tell the unprivileged part the result of a request. Raises `OSError`."""
    path = system.path(RESULT_FILE)
    make_folder(path.parent, 0o755)
    write_file(path, json.dumps(asdict(result)).encode() + b"\n", 0o644)


def load_result(system: System, digest: str) -> StoredResult | None:
    """Return what root has stored about a request; None if it is nothing."""
    row = state_files.read_object(system, RESULT_FILE, TYPES, tuple(TYPES))
    if row.get("digest") != digest or row.get("stage") not in set(RequestStage):
        return None
    details = tuple(str(line) for line in row["details"])
    return StoredResult(digest, RequestStage(row["stage"]), details, row["archive"])


def store_archive(system: System, data: bytes) -> None:
    """Store diagnostics for the unprivileged part, and for nobody else. Raises `OSError`."""
    path = system.path(ARCHIVE_FILE)
    make_folder(path.parent, 0o755)
    write_file(path, data, 0o600)
    with suppress(KeyError):  # only a device has this user
        os.chown(path, *pwd.getpwnam(USER)[2:4])


def load_archive(system: System) -> bytes:
    """Return the diagnostics. Raises `OSError`."""
    return read_start(system.path(ARCHIVE_FILE), LARGEST_ARCHIVE, links=False)


def remove_archive(system: System) -> None:
    """Remove the diagnostics of an earlier request. Raises `OSError`."""
    system.path(ARCHIVE_FILE).unlink(missing_ok=True)


def mark_reported(system: System, digest: str) -> None:
    """Tell root that the server has the result of a request. Raises `OSError`."""
    write_file(system.path(REPORTED_FILE), json.dumps({"digest": digest}).encode() + b"\n", 0o600)


def is_reported(system: System, digest: str) -> bool:
    """Whether the unprivileged part says that the server has the result of a request."""
    try:
        return digest.encode() in read_start(system.path(REPORTED_FILE), 1000, links=False)
    except OSError:
        return False
