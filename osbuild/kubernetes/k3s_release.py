"""The K3s distribution: an official release, by the sha256 that the profile, this program or the release gives."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from osbuild.config.profile import KubernetesSettings
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.download import NotOnServer, Unavailable, download_file, folder_from_environment
from osbuild.inputs.small_text import read_text
from osbuild.kubernetes.k3s_pins import ASSETS, K3S
from osbuild.shared.errors import Error

RELEASES = "https://github.com/k3s-io/k3s/releases/download"
MIRROR = "EDGE_OSBUILD_K3S_MIRROR"
SUMS_SIZE = 65536  # bytes; a release's checksum file has less than one kilobyte
SUM = re.compile(r"([0-9a-fA-F]{64}) [ *]?\s*(\S+)")


@dataclass(frozen=True)
class K3sRelease:
    """One binary: version, name in the release, sha256 in hex."""

    version: str
    asset: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.asset}-{self.version}"

    def urls(self, folder: Path | None = None) -> list[str]:
        """Where to look, in order."""
        return [f"{place}/{self.asset}" for place in release_pages(self.version, folder)]


def wanted_version(block: KubernetesSettings) -> str:
    """The release that a profile asks for, the newest pinned one if it names none."""
    return block.version or next(iter(K3S))


def binary_name(version: str, architecture: Architecture) -> str:
    """What a binary is called in an air-gap folder, which may hold several versions."""
    return f"{ASSETS[architecture]}-{version}"


def release_pages(version: str, folder: Path | None = None) -> list[str]:
    """URLs and paths that may hold the files of a release, in order.

    First a folder named by the version in `folder`, then `$EDGE_OSBUILD_K3S_MIRROR` (laid out as the release page),
    then the release page itself.
    """
    mirrors = [mirror.rstrip("/") for mirror in os.environ.get(MIRROR, "").split()]
    remote = [f"{place}/{quote(version)}" if "://" in place else f"{place}/{version}" for place in mirrors]
    local = [str(folder / version)] if folder and (folder / version).is_dir() else []
    return [*local, *remote, f"{RELEASES}/{quote(version)}"]


def known_sha256(block: KubernetesSettings, version: str, architecture: Architecture) -> str | None:
    """The sha256 that the profile, or else this program, gives for a release; None if neither does."""
    given = block.sha256.get(architecture)
    return given.lower() if given else K3S.get(version, {}).get(architecture)


def find_release(block: KubernetesSettings, architecture: Architecture, folder: Path | None = None) -> K3sRelease:
    """The release that a profile asks for.

    A sha256 that neither the profile nor this program has is read from the release's checksum file. Raises
    `Unavailable` if no place has that file, and `Error` if it does not list the binary.
    """
    chosen = wanted_version(block)
    sha256 = known_sha256(block, chosen, architecture)
    return K3sRelease(chosen, ASSETS[architecture], sha256 or published_sha256(chosen, architecture, folder))


def published_sha256(version: str, architecture: Architecture, folder: Path | None = None) -> str:
    """The sha256 of a release's binary as its checksum file says, hex. Raises `Unavailable` and `Error`."""
    name = f"sha256sum-{architecture.to_go()}.txt"
    folder = folder or folder_from_environment()
    places = [f"{page}/{name}" for page in release_pages(version, folder)]
    if folder:
        places.insert(0, str(folder / f"{name}-{version}"))
    try:
        place, text = read_text(places, limit=SUMS_SIZE)
    except NotOnServer as error:
        raise Error(
            f"there is no K3s release {version}: {error.message}",
            where="kubernetes.version",
            hint="check the version against the release page of K3s; pinned here are " + ", ".join(K3S),
        ) from error
    except Unavailable as error:
        raise Unavailable(
            f"the sha256 of K3s {version} is not known: {error.message}",
            where="kubernetes.version",
            hint="check that the release exists; or write its sha256 as "
            f"`kubernetes.sha256: {{{architecture}: …}}`; or put {name} into a folder as {name}-{version} and pass "
            f"--from FOLDER; or give this host a network or a proxy (https_proxy), or set {MIRROR} to the URL of a "
            "mirror of the release page",
        ) from error
    for line in text.splitlines():
        match = SUM.fullmatch(line.strip())
        if match and match[2] == ASSETS[architecture]:
            if urlsplit(place).scheme == "http":
                log.warn(f"the sha256 of K3s {version} was read without TLS from {place}: compare it with the release")
            return match[1].lower()
    raise Error(
        f"the checksum file of K3s {version} has no line for {ASSETS[architecture]}",
        where=place,
        hint="this release may have no binary for the architecture; or the mirror's file is damaged",
    )


def download_binary(chosen: K3sRelease, cache: Cache, folder: Path | None = None) -> Path:
    """The binary, verified, in the cache. Raises `Unavailable` if no place has it, and names every way out."""
    folder = folder or folder_from_environment()
    try:
        with log.step(f"getting K3s {chosen.version}"):
            return download_file(
                chosen.urls(folder), sha256=chosen.sha256, name=chosen.filename, cache=cache, folder=folder
            )
    except Unavailable as error:
        raise Unavailable(
            f"K3s {chosen.version} cannot be had: {error.message}",
            where="kubernetes.distribution",
            hint=f"give this host a network or a proxy (https_proxy); or set {MIRROR} to the URL of a mirror of the "
            f"release page; or download {chosen.urls()[-1]} elsewhere, put it into a folder as {chosen.filename} and "
            "pass --from FOLDER; or write `if_unavailable: upstream` in the profile to build Kubernetes from its Go "
            "modules instead",
        ) from error
