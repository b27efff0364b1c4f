"""Versions of Kubernetes that the upstream distribution can build."""

import re
from dataclasses import dataclass
from pathlib import Path

from osbuild.shared.errors import Error
from osbuild.shared.kubernetes_versions import version_numbers

SOURCES = Path(__file__).parents[1] / "kubernetes" / "upstream"


@dataclass(frozen=True)
class UpstreamRelease:
    """A Kubernetes version that can be built: a folder with go.mod and go.sum."""

    version: str
    kine: str
    folder: Path


def list_releases() -> tuple[UpstreamRelease, ...]:
    """Return the versions that can be built, newest first, from the go.mod files below upstream/."""
    releases = []
    for path in SOURCES.glob("v*/go.mod"):
        required = dict(re.findall(r"^\s+(\S+) (v\S+)", path.read_text(), re.MULTILINE))
        releases.append(UpstreamRelease(required["k8s.io/kubernetes"], required["github.com/k3s-io/kine"], path.parent))
    return tuple(sorted(releases, key=lambda release: version_numbers(release.version) or (), reverse=True))


def find_release(version: str | None) -> UpstreamRelease:
    """Return the release of that version, the newest if None. Raises `Error`."""
    known = list_releases()
    if version is None:
        return known[0]
    for candidate in known:
        if candidate.version == version:
            return candidate
    raise Error(
        f"Kubernetes {version} cannot be built here",
        where="kubernetes.version",
        hint="versions with a go.mod and go.sum are: " + ", ".join(candidate.version for candidate in known),
    )
