"""The lock beside a profile. It pins every input of the images, so the same lock gives the same image."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from osbuild.config.load import LoadedProfile, argument
from osbuild.host import log, output
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key
from osbuild.host.paths import INSTALLED, PROFILES, display_path
from osbuild.inputs.debian import Deb
from osbuild.shared import locks
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record, record_to_json

FORMAT = 1
KEYS = {"root_tools": "compose_tools", "image_tools": "finish_tools"}  # fields with another name in the file
# deb-version(7); names follow Debian's policy (5.6.1) strictly, because they become parts of paths
DEB = re.compile(r"([a-z0-9][a-z0-9+.-]*) ([0-9A-Za-z.+:~-]+) ([a-z0-9-]+) ([0-9a-f]{64}) ([0-9]{1,15})")
AGAIN = "run `edge-osbuild lock {profile}` to write the lock again"


@dataclass(frozen=True, kw_only=True)
class LockedKubernetes:
    """The Kubernetes of a lock: its distribution and version, and the SHA-256 of each of its inputs.

    If it replaces a release that could not be downloaded, `requested` names that release and `reason` gives the cause.
    """

    distribution: str
    version: str
    files: Mapping[str, str]
    requested: str | None = None
    reason: str | None = field(default=None, metadata={"key": "because"})
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lock:
    """The pinned inputs of the image for one board.

    `epoch` is the latest modification time in the image, in seconds since 1970. `request` is the content key of the
    profile's request for which the lock was written. `root_tools` and `image_tools` are the packages of the tools trees
    that make the root file system and the image. `without` are suites that could not be read then.
    """

    board: str
    architecture: Architecture
    request: str
    epoch: int
    root_tools: tuple[Deb, ...]
    image_tools: tuple[Deb, ...]
    packages: tuple[Deb, ...]
    kernel: Deb
    initrd: tuple[Deb, ...]
    boot: tuple[Deb, ...]
    kubernetes: LockedKubernetes | None = None
    wheels: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content key of the whole lock."""
        return content_key(lock_to_json(self))


def lock_path(loaded: LoadedProfile) -> Path:
    """Return the lock's path: beside the profile, or in the current folder for a shipped profile of a wheel.

    Raises `UsageError` if the current folder has another profile of the same name, which would own that lock.
    """
    profile = loaded.files[-1]
    path = profile.with_suffix(".lock.json")
    if not INSTALLED or profile.parent.resolve() != PROFILES:
        return path
    if Path(profile.name).exists():
        message = f"{path.name} in this folder is the lock of {profile.name}, not of the shipped profile"
        hint = f"write `{profile.name}` to use the profile in this folder, or change to another folder"
        raise UsageError(message, where=f"profile `{profile.stem}`", hint=hint)
    return Path(path.name).absolute()


def lock_to_json(lock: Lock) -> dict[str, Any]:
    """Return the lock as JSON values; packages are strings `name version architecture sha256 size`."""
    document = asdict(lock)

    def line(deb: dict[str, Any]) -> str:
        return " ".join(str(value) for value in deb.values())

    for field_name, key in KEYS.items():
        document[key] = document.pop(field_name)
    for key in (*KEYS.values(), "packages", "initrd", "boot"):
        document[key] = [line(deb) for deb in document[key]]
    document["kernel"] = line(document["kernel"])
    document["kubernetes"] = record_to_json(lock.kubernetes) if lock.kubernetes else {}
    return document


def lock_from_json(document: dict[str, Any]) -> Lock:
    """Parse the result of `lock_to_json`. Raises `KeyError`, `TypeError` or `ValueError` if it is not a lock."""

    def deb(line: str) -> Deb:
        if not (match := DEB.fullmatch(line)):
            raise ValueError(f"`{line[:100]}` is not a package: name, version, architecture, sha256 and size")
        name, version, architecture, sha256, size = match.groups()
        return Deb(name, version, architecture, sha256, int(size))

    def debs(lines: Iterable[str]) -> tuple[Deb, ...]:
        return tuple(deb(line) for line in lines)

    def kubernetes(pinned: dict[str, Any]) -> LockedKubernetes | None:
        # A lock that pins only a part of Kubernetes is too old for the profile, like one that pins none.
        complete = {"distribution", "version", "files"} <= pinned.keys()
        return parse_record(LockedKubernetes, pinned, "kubernetes") if complete else None

    return Lock(
        str(document.get("board", document["architecture"])),
        Architecture(document["architecture"]),
        str(document["request"]),
        int(document["epoch"]),
        debs(document[KEYS["root_tools"]]),
        debs(document[KEYS["image_tools"]]),
        debs(document["packages"]),
        deb(document["kernel"]),
        debs(document["initrd"]),
        debs(document.get("boot", ())),  # a lock without this key is too old for the profile, and is written again
        kubernetes(document["kubernetes"]),
        dict(document["wheels"]),
        tuple(str(name) for name in document.get("without", ())),
    )


def read_lock(loaded: LoadedProfile, board: str) -> Lock | None:
    """Return the lock of a profile for one board, None if there is none. Raises `Error` if the file is not a lock."""
    return read_locks(loaded, only=board).get(board)


def read_locks(loaded: LoadedProfile, *, only: str | None = None) -> dict[str, Lock]:
    """Return the locks of a profile by board, all or the one for `only`. Raises `Error` if the file is not a lock."""
    documents = read_documents(loaded)
    try:
        return {name: lock_from_json(lock) for name, lock in documents.items() if only in (None, name)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def read_documents(loaded: LoadedProfile) -> dict[str, Any]:
    """Return the locks of a profile by board as JSON values. Raises `Error` if the file is not a lock."""
    path = lock_path(loaded)
    try:
        text = read_file(path).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error(f"cannot be read: {error}", where=display_path(path), hint=hint) from error
    try:
        document = parse_json(text)
        if document["format"] != FORMAT:
            raise ValueError(f"the format is {document['format']!r}, but this edge-osbuild reads format {FORMAT}")
        return dict(document["locks"].items())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def _damaged(loaded: LoadedProfile, error: Exception) -> Error:
    hint = AGAIN.format(profile=argument(loaded.files[-1]))
    return Error(
        f"this is not a lock: {type(error).__name__}: {error}", where=display_path(lock_path(loaded)), hint=hint
    )


def save_lock(loaded: LoadedProfile, lock: Lock) -> Path:
    """Write the lock for one board atomically and keep other boards' locks. A file that is not a lock is replaced."""
    path = lock_path(loaded)
    # Builds for two boards may write their locks at the same time.
    with locks.hold_file_lock(path.parent):
        try:
            documents = read_documents(loaded)
        except Error as error:
            log.warn(f"{error}. The file is replaced, without locks for other boards")
            documents = {}
        documents = {**documents, lock.board: lock_to_json(lock)}
        text = json.dumps({"format": FORMAT, "locks": documents}, indent=1, sort_keys=True) + "\n"
        output.write_output(path, text.encode())
    return path
