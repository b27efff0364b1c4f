"""The lock beside a profile: every input of its image by sha256, so that the same lock gives the same image."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from osbuild.config.load import LoadedProfile, argument
from osbuild.host import log, output
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key
from osbuild.host.paths import INSTALLED, PROFILES, display_path
from osbuild.inputs.debian import Deb
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json

FORMAT = 1
# deb-version(7); names as Debian's policy has them (5.6.1), since they become parts of paths
DEB = re.compile(r"([a-z0-9][a-z0-9+.-]*) ([0-9A-Za-z.+:~-]+) ([a-z0-9-]+) ([0-9a-f]{64}) ([0-9]{1,15})")
AGAIN = "run `edge-osbuild lock {profile}` to make the lock again"


@dataclass(frozen=True)
class Lock:
    """What the image for one board is made of.

    `epoch`, in seconds since 1970, is the latest time that a file of the image carries. `request_key` is the content
    key of what the profile asked for when the lock was made. `without` are suites that could not be read then.
    """

    board: str
    architecture: Architecture
    request: str
    epoch: int
    compose_tools: tuple[Deb, ...]
    finish_tools: tuple[Deb, ...]
    packages: tuple[Deb, ...]
    kernel: Deb
    initrd: tuple[Deb, ...]
    boot: tuple[Deb, ...]
    kubernetes: dict[str, Any] = field(default_factory=dict)
    wheels: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content key of the whole."""
        return content_key(lock_to_json(self))


def lock_path(loaded: LoadedProfile) -> Path:
    """The lock of a profile: beside it, but in the current folder for one that an installed edge-osbuild ships.

    Raises `UsageError` if the current folder has a profile of that name, whose lock it would be.
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
    """As JSON can write it; packages as `name version architecture sha256 size`."""
    plain = asdict(lock)

    def line(deb: dict[str, Any]) -> str:
        return " ".join(str(value) for value in deb.values())

    for name in ("compose_tools", "finish_tools", "packages", "initrd", "boot"):
        plain[name] = [line(deb) for deb in plain[name]]
    plain["kernel"] = line(plain["kernel"])
    return plain


def lock_from_json(plain: dict[str, Any]) -> Lock:
    """The reverse of `lock_to_json`. Raises `KeyError`, `TypeError` or `ValueError` on anything else."""

    def deb(line: str) -> Deb:
        if not (match := DEB.fullmatch(line)):
            raise ValueError(f"`{line[:100]}` is not a package: name, version, architecture, sha256 and size")
        name, version, architecture, sha256, size = match.groups()
        return Deb(name, version, architecture, sha256, int(size))

    def debs(lines: Iterable[str]) -> tuple[Deb, ...]:
        return tuple(deb(line) for line in lines)

    return Lock(
        str(plain.get("board", plain["architecture"])),
        Architecture(plain["architecture"]),
        str(plain["request"]),
        int(plain["epoch"]),
        debs(plain["compose_tools"]),
        debs(plain["finish_tools"]),
        debs(plain["packages"]),
        deb(plain["kernel"]),
        debs(plain["initrd"]),
        debs(plain.get("boot", ())),  # those from before it no longer fit the profile, and are made again
        dict(plain["kubernetes"]),
        dict(plain["wheels"]),
        tuple(str(name) for name in plain.get("without", ())),
    )


def read_lock(loaded: LoadedProfile, board: str) -> Lock | None:
    """The lock of a profile for one board, None if it has none. Raises `Error` on a file that is no lock."""
    return read_locks(loaded, only=board).get(board)


def read_locks(loaded: LoadedProfile, *, only: str | None = None) -> dict[str, Lock]:
    """The locks of a profile by board, or that of the board `only`. Raises `Error` on a file that is no lock."""
    plain = read_plain(loaded)
    try:
        return {name: lock_from_json(lock) for name, lock in plain.items() if only in (None, name)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def read_plain(loaded: LoadedProfile) -> dict[str, Any]:
    """The locks of a profile by board, as they are in JSON. Raises `Error` on a file that is no lock."""
    path = lock_path(loaded)
    try:
        text = read_file(path).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error(f"cannot be read: {error}", where=display_path(path), hint=hint) from error
    try:
        plain = parse_json(text)
        if plain["format"] != FORMAT:
            raise ValueError(f"its format is {plain['format']!r}, this edge-osbuild knows {FORMAT}")
        return dict(plain["locks"].items())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def _damaged(loaded: LoadedProfile, error: Exception) -> Error:
    hint = AGAIN.format(profile=argument(loaded.files[-1]))
    return Error(f"is not a lock: {type(error).__name__}: {error}", where=display_path(lock_path(loaded)), hint=hint)


def save_lock(loaded: LoadedProfile, lock: Lock) -> Path:
    """Write the lock of a profile, whole or not at all; those for other boards stay. What is no lock is replaced."""
    path = lock_path(loaded)
    try:
        others = read_plain(loaded)
    except Error as error:
        log.warn(f"{error}. It is replaced, and has nothing for other boards")
        others = {}
    locks = {**others, lock.board: lock_to_json(lock)}
    output.write_output(
        path, (json.dumps({"format": FORMAT, "locks": locks}, indent=1, sort_keys=True) + "\n").encode()
    )
    return path
