"""The lock beside a profile: every input of its image by sha256, so that the same lock gives the same image."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from osbuild import kubernetes, log, output, tools
from osbuild.agent.system import read_file
from osbuild.arch import Architecture
from osbuild.board import Board
from osbuild.boot import initrd
from osbuild.boot.flows import flow
from osbuild.boot.kernel import METAPACKAGES
from osbuild.cache import Cache, content_key, file_digest
from osbuild.debian import SUITE, Archive, Deb
from osbuild.errors import Error, UsageError
from osbuild.fetch import Unavailable
from osbuild.jsontext import loads
from osbuild.kubernetes import k3s, payload, toolchain, upstream
from osbuild.paths import INSTALLED, PROFILES, display
from osbuild.profile.load import Loaded, argument
from osbuild.profile.model import Kubernetes
from osbuild.rootfs import PACKAGES
from osbuild.wheels import DISKIMAGE_BUILDER

FORMAT = 1
AGAIN = "run `edge-osbuild lock {profile}` to make the lock again"


@dataclass(frozen=True)
class Lock:
    """What the image for one board is made of.

    `epoch`, in seconds since 1970, is the latest time that a file of the image carries. `request` is the content key
    of what the profile asked for when the lock was made. `without` are suites that could not be read then.
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
        return content_key(to_json(self))


def lock_path(loaded: Loaded) -> Path:
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


def wanted(loaded: Loaded, distribution: str | None = None) -> list[str]:
    """Names of the packages that the profile's root is made of.

    `distribution` is the Kubernetes that the lock pins, if it is not the profile's.
    """
    block = loaded.profile.kubernetes
    more = kubernetes.packages(distribution or block.distribution) if block.role != "none" else ()
    return sorted({*PACKAGES, *more, *loaded.profile.packages})


def flavour(loaded: Loaded, board: Board) -> str:
    """Which of Debian's kernels: the board's, if it needs a certain one."""
    return board.kernel or loaded.profile.kernel.flavour


def request(loaded: Loaded, board: Board) -> str:
    """Content key of what is resolved: a lock made for another request no longer fits."""
    profile = loaded.profile
    block = profile.kubernetes
    sha256 = block.sha256.get(board.architecture)
    pinned = [block.role != "none", block.distribution, block.version, block.if_unavailable, sha256]
    return content_key(
        FORMAT,
        SUITE,
        wanted(loaded),
        flavour(loaded, board),
        board.architecture,
        pinned,
        tools.compose_packages(board.architecture),
        tools.FINISH,
        flow(board).packages(board),
        pins(loaded),
    )


def pins(loaded: Loaded) -> dict[str, str]:
    """The wheels that a build uses, each with its sha256."""
    found = {pin.filename: pin.sha256 for pin in DISKIMAGE_BUILDER}
    if loaded.profile.kubernetes.role != "none":
        pin = toolchain.pin()
        found[pin.filename] = pin.sha256
    return found


def make(
    loaded: Loaded, board: Board, cache: Cache, *, folder: Path | None = None, without: Sequence[str] = ()
) -> Lock:
    """Resolve everything against today's archives, which may lack the suites `without`. Raises `Error`."""
    output.target(lock_path(loaded))  # a lock that can't be written is reported now, not after a minute
    architecture, from_board = board.architecture, flow(board).packages(board)
    # First, since the distribution decides which packages the root needs.
    pinned = pin_kubernetes(loaded.profile.kubernetes, architecture, cache, folder)
    native = Archive(cache, Architecture.native())
    archive = Archive(cache, architecture)
    with log.step(f"resolving packages for {board.name}"):
        lacking = set(archive.update(without))
        if native.architecture != architecture:
            lacking |= set(native.update(without))
        meta = METAPACKAGES[architecture, flavour(loaded, board)]
        with ThreadPoolExecutor() as pool:
            boot = pool.submit(archive.resolve, [meta, *initrd.PACKAGES, *from_board])
            compose_tools = pool.submit(native.resolve, tools.compose_packages(architecture))
            finish_tools = pool.submit(native.resolve, tools.FINISH)
            packages = archive.resolve(wanted(loaded, pinned.get("distribution")))
        image = [deb for deb in boot.result() if deb.name.startswith("linux-image-") and deb.name != meta]
        early = [deb for deb in boot.result() if deb.name in initrd.PACKAGES]
    return Lock(
        board.name,
        architecture,
        request(loaded, board),
        int(time.time()),
        compose_tools.result(),
        finish_tools.result(),
        packages,
        image[0],
        tuple(early),
        tuple(deb for deb in boot.result() if deb.name in from_board),
        pinned,
        pins(loaded),
        tuple(sorted(lacking)),
    )


def pin_kubernetes(block: Kubernetes, architecture: Architecture, cache: Cache, folder: Path | None) -> dict[str, Any]:
    """Which distribution is built, and its inputs. Where K3s can't be had, the profile's way out is taken here."""
    if block.role == "none":
        return {}
    facts: dict[str, Any] = {}
    if block.distribution == "k3s":
        try:
            chosen = k3s.release(block, architecture, folder)
            payload.check_machine(k3s.binary(chosen, cache, folder), architecture)
            return {"distribution": "k3s", "version": chosen.version, "files": {chosen.filename: chosen.sha256}}
        except Unavailable as error:
            if block.if_unavailable != "upstream":
                raise
            facts = {"requested": f"k3s {k3s.version(block)}", "because": " ".join(error.message.split())}
    release = upstream.release(block.version if block.distribution == "upstream" else None)
    files = {"go.mod": file_digest(release.folder / "go.mod"), "go.sum": file_digest(release.folder / "go.sum")}
    return {"distribution": "upstream", "version": release.version, "files": files, **facts}


def locked_kubernetes(loaded: Loaded, lock: Lock) -> Kubernetes:
    """The profile's block as the lock has decided it. Raises `Error` where this program now pins other inputs."""
    pinned = lock.kubernetes
    block, version = loaded.profile.kubernetes, str(pinned["version"])
    sha256 = dict(block.sha256)
    if pinned["distribution"] == "k3s":
        name = k3s.filename(version, lock.architecture)
        sha256[lock.architecture] = known = k3s.known_sha256(block, version, lock.architecture) or pinned["files"][name]
        now = {name: known}
    else:
        sources = upstream.release(version).folder
        now = {name: file_digest(sources / name) for name in ("go.mod", "go.sum")}
    if now != pinned["files"]:
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error(f"the lock has other inputs of Kubernetes {version} than this edge-osbuild", hint=hint)
    return replace(block, distribution=pinned["distribution"], version=version, sha256=sha256, if_unavailable=None)


def to_json(lock: Lock) -> dict[str, Any]:
    """As JSON can write it; packages as `name version architecture sha256 size`."""
    plain = asdict(lock)

    def line(deb: dict[str, Any]) -> str:
        return " ".join(str(value) for value in deb.values())

    for name in ("compose_tools", "finish_tools", "packages", "initrd", "boot"):
        plain[name] = [line(deb) for deb in plain[name]]
    plain["kernel"] = line(plain["kernel"])
    return plain


def from_json(plain: dict[str, Any]) -> Lock:
    """The reverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` on anything else."""

    def deb(line: str) -> Deb:
        name, version, architecture, sha256, size = line.split()
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError(f"`{sha256}` is no sha256")
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


def read(loaded: Loaded, board: str) -> Lock | None:
    """The lock of a profile for one board, None if it has none. Raises `Error` on a file that is no lock."""
    return read_all(loaded, only=board).get(board)


def read_all(loaded: Loaded, *, only: str | None = None) -> dict[str, Lock]:
    """The locks of a profile by board, or that of the board `only`. Raises `Error` on a file that is no lock."""
    plain = read_plain(loaded)
    try:
        return {name: from_json(lock) for name, lock in plain.items() if only in (None, name)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def read_plain(loaded: Loaded) -> dict[str, Any]:
    """The locks of a profile by board, as they are in JSON. Raises `Error` on a file that is no lock."""
    path = lock_path(loaded)
    try:
        text = read_file(path).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error(f"cannot be read: {error}", where=display(path), hint=hint) from error
    try:
        plain = loads(text)
        if plain["format"] != FORMAT:
            raise ValueError(f"its format is {plain['format']!r}, this edge-osbuild knows {FORMAT}")
        return dict(plain["locks"].items())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(loaded, error) from error


def _damaged(loaded: Loaded, error: Exception) -> Error:
    hint = AGAIN.format(profile=argument(loaded.files[-1]))
    return Error(f"is not a lock: {type(error).__name__}: {error}", where=display(lock_path(loaded)), hint=hint)


def save(loaded: Loaded, lock: Lock) -> Path:
    """Write the lock of a profile, whole or not at all; those for other boards stay. What is no lock is replaced."""
    path = lock_path(loaded)
    try:
        others = read_plain(loaded)
    except Error as error:
        log.warn(f"{error}. It is replaced, and has nothing for other boards")
        others = {}
    locks = {**others, lock.board: to_json(lock)}
    output.write(path, (json.dumps({"format": FORMAT, "locks": locks}, indent=1, sort_keys=True) + "\n").encode())
    return path


def current(
    loaded: Loaded, board: Board, cache: Cache, *, locked: bool = False, folder: Path | None = None
) -> Lock:  # fmt: skip
    """The lock to build by: the one beside the profile if it still fits, else a new one, which is written there.

    With `locked`, a missing lock or one that no longer fits is an `Error`.
    """
    found = read(loaded, board.name)
    if found and found.request == request(loaded, board):
        return found
    why = "does not fit the profile any more" if found else f"has nothing for {board.name}"
    if locked:
        hint = f"run `edge-osbuild lock {argument(loaded.files[-1])} --board {board.name}`, or build without --locked"
        raise Error(f"the lock {why}", where=display(lock_path(loaded)), hint=hint)
    lock = make(loaded, board, cache, folder=folder)
    log.note(f"locked: {os.path.relpath(save(loaded, lock))}")
    return lock
