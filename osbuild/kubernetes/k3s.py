"""The K3s distribution: the official release binary, by its pinned sha256."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from osbuild import log
from osbuild.arch import Architecture
from osbuild.cache import Cache
from osbuild.errors import Error
from osbuild.fetch import Unavailable, fetch
from osbuild.kubernetes.pins import ASSETS, K3S

RELEASES = "https://github.com/k3s-io/k3s/releases/download"
MIRROR = "EDGE_OSBUILD_K3S_MIRROR"


@dataclass(frozen=True)
class Release:
    """One pinned binary: version, name in the release, sha256 in hex."""

    version: str
    asset: str
    sha256: str

    @property
    def filename(self) -> str:
        """What the file is called in an air-gap folder, where several versions may lie."""
        return f"{self.asset}-{self.version}"

    def urls(self) -> list[str]:
        """Where to look, in order: `$EDGE_OSBUILD_K3S_MIRROR` (laid out as the release page), then the release."""
        places = [mirror.rstrip("/") for mirror in os.environ.get(MIRROR, "").split() if mirror]
        return [f"{place}/{quote(self.version)}/{self.asset}" for place in [*places, RELEASES]]


def release(version: str | None, architecture: Architecture) -> Release:
    """The pinned release of that version, the newest if None. Raises `Error` if there is no pin."""
    wanted = version or next(iter(K3S))
    if wanted not in K3S:
        raise Error(
            f"K3s {wanted} is not pinned",
            where="kubernetes.version",
            hint=f"pinned are {', '.join(K3S)}; others are added, with their sha256, to osbuild/kubernetes/pins.py",
        )
    return Release(wanted, ASSETS[architecture], K3S[wanted][architecture])


def binary(chosen: Release, cache: Cache, folder: Path | None = None) -> Path:
    """The binary, verified, in the cache. Raises `Unavailable` where no place has it, naming every way out."""
    try:
        with log.step(f"getting K3s {chosen.version}"):
            return fetch(chosen.urls(), sha256=chosen.sha256, name=chosen.filename, cache=cache, folder=folder)
    except Unavailable as error:
        raise Unavailable(
            f"K3s {chosen.version} cannot be had: {error.message}",
            where="kubernetes.distribution",
            hint=f"give this host a network or a proxy (https_proxy); or set {MIRROR} to the URL of a mirror of the "
            f"release page; or download {chosen.urls()[-1]} elsewhere, put it into a folder as {chosen.filename} and "
            "pass --from FOLDER; or write `if_unavailable: upstream` in the profile to build Kubernetes from its Go "
            "modules instead",
        ) from error
