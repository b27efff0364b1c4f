"""The K3s distribution: finds and downloads an official release.

Its SHA-256 is pinned in the profile or in this program, or read from the release's checksum file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from osbuild.config.profile import KubernetesSettings
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.download import NotOnServer, PinnedFile, Unavailable, download_file, folder_from_environment
from osbuild.inputs.small_text import read_text
from osbuild.kubernetes.k3s_pins import ASSETS, K3S
from osbuild.shared.errors import Error
from osbuild.shared.seed.checksums import checksum_lines

RELEASES = "https://github.com/k3s-io/k3s/releases/download"
MIRROR = "EDGE_OSBUILD_K3S_MIRROR"
SUMS_SIZE = 65536  # bytes; a release's checksum file has less than 1 kB


@dataclass(frozen=True)
class K3sRelease:
    """One file of a release: version, name on the release page, SHA-256 in hex."""

    version: str
    asset: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.asset}-{self.version}"

    def urls(self, folder: Path | None = None) -> list[str]:
        """Return the URLs and paths from which to download it, in order."""
        return [f"{page}/{self.asset}" for page in release_pages(self.version, folder)]


def requested_version(settings: KubernetesSettings) -> str:
    """Return the profile's K3s version, or the newest pinned one if the profile has none."""
    return settings.version or next(iter(K3S))


def binary_name(version: str, architecture: Architecture) -> str:
    """Return the name of a binary in a folder for builds without a network, which may hold several versions."""
    return f"{ASSETS[architecture]}-{version}"


def airgap_asset(architecture: Architecture) -> str:
    """Return the name on the release page of the archive with the container images of K3s' add-ons."""
    return f"k3s-airgap-images-{architecture.to_go()}.tar.zst"


def release_pages(version: str, folder: Path | None = None) -> list[str]:
    """Return the URLs and paths that may have the files of a release, in order.

    First the subfolder of `folder` named after the version, then $EDGE_OSBUILD_K3S_MIRROR (URLs with the layout of the
    release page), then the release page itself.
    """
    mirrors = [mirror.rstrip("/") for mirror in os.environ.get(MIRROR, "").split()]
    remote = [f"{mirror}/{quote(version)}" if "://" in mirror else f"{mirror}/{version}" for mirror in mirrors]
    local = [str(folder / version)] if folder and (folder / version).is_dir() else []
    return [*local, *remote, f"{RELEASES}/{quote(version)}"]


def known_sha256(settings: KubernetesSettings, version: str, architecture: Architecture) -> str | None:
    """Return the SHA-256 of a release that the profile or this program pins; None if neither does."""
    pinned = settings.sha256.get(architecture)
    return pinned.lower() if pinned else K3S.get(version, {}).get(architecture)


def find_release(settings: KubernetesSettings, architecture: Architecture, folder: Path | None = None) -> K3sRelease:
    """Return the K3s release for the profile's settings.

    If its SHA-256 is not pinned, it is read from the release's checksum file. Raises `Unavailable` if no source has
    that file, and `Error` if it does not list the binary.
    """
    version = requested_version(settings)
    sha256 = known_sha256(settings, version, architecture)
    asset = ASSETS[architecture]
    return K3sRelease(version, asset, sha256 or published_sha256(version, asset, architecture, folder))


def find_airgap_images(
    settings: KubernetesSettings, architecture: Architecture, folder: Path | None = None
) -> K3sRelease:
    """Return the release's archive of container images. Raises `Unavailable` and `Error` like `find_release`."""
    version, asset = requested_version(settings), airgap_asset(architecture)
    pinned = settings.airgap_sha256.get(architecture)
    sha256 = pinned.lower() if pinned else published_sha256(version, asset, architecture, folder)
    return K3sRelease(version, asset, sha256)


def published_sha256(version: str, asset: str, architecture: Architecture, folder: Path | None = None) -> str:
    """Read the SHA-256 of a release's file, in hex, from its checksum file. Raises `Unavailable` and `Error`."""
    name = f"sha256sum-{architecture.to_go()}.txt"
    folder = folder or folder_from_environment()
    sources = [f"{page}/{name}" for page in release_pages(version, folder)]
    if folder:
        sources.insert(0, str(folder / f"{name}-{version}"))
    try:
        source, text = read_text(sources, limit=SUMS_SIZE)
    except NotOnServer as error:
        raise Error(
            f"there is no K3s release {version}: {error.message}",
            where="kubernetes.version",
            hint="check the version on the release page of K3s; pinned versions are " + ", ".join(K3S),
        ) from error
    except Unavailable as error:
        raise Unavailable(
            f"the sha256 of K3s {version} is not known: {error.message}",
            where="kubernetes.version",
            hint="check that the release exists; or write its sha256 as "
            f"`kubernetes.sha256: {{{architecture}: …}}`; or save {name} in a folder as {name}-{version} and pass "
            f"--from FOLDER; or connect this host to a network or set a proxy (https_proxy), or set {MIRROR} to the "
            "URL of a mirror of the release page",
        ) from error
    digests = {digest for name, digest in checksum_lines(text) if name == asset}
    if len(digests) != 1:
        count = "two different lines" if digests else "no line"
        hint = "the release may have no such file for this architecture, or the mirror's file is damaged"
        raise Error(f"the checksum file of K3s {version} has {count} for {asset}", where=source, hint=hint)
    if urlsplit(source).scheme == "http":
        log.warn(f"the sha256 of K3s {version} was read without TLS from {source}: compare it with the release page")
    return digests.pop()


def download_release(chosen: K3sRelease, cache: Cache, folder: Path | None = None) -> Path:
    """Return the path in the cache of the verified file. Raises `Unavailable` if no source has it."""
    folder = folder or folder_from_environment()
    try:
        with log.step(f"downloading {chosen.asset} of K3s {chosen.version}"):
            file = PinnedFile(chosen.filename, chosen.sha256)
            return download_file(chosen.urls(folder), file, cache, folder=folder)
    except Unavailable as error:
        raise Unavailable(
            f"{chosen.asset} of K3s {chosen.version} cannot be downloaded: {error.message}",
            where="kubernetes.distribution",
            hint="connect this host to a network or set a proxy (https_proxy); "
            f"or set {MIRROR} to the URL of a mirror of the release page; "
            f"or download {chosen.urls()[-1]} on another host, save it in a folder as {chosen.filename} and pass "
            "--from FOLDER; or write `if_unavailable: upstream` in the profile to build Kubernetes from its Go modules",
        ) from error
