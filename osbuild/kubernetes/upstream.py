"""The upstream distribution: one static binary that is each of Kubernetes' programs and kine."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from osbuild import log
from osbuild.arch import Architecture
from osbuild.cache import Cache, content_key, file_digest
from osbuild.errors import Error
from osbuild.kubernetes import toolchain

SOURCES = Path(__file__).parent / "upstream"
SMALL = Path(__file__).parent / "programs"
PROGRAMS = (
    "kine",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
)


@dataclass(frozen=True)
class Release:
    """A Kubernetes version that can be built: a folder with go.mod and go.sum."""

    version: str
    kine: str
    folder: Path


def releases() -> tuple[Release, ...]:
    """What can be built, newest first, as the go.mod files below upstream/ say."""
    found = []
    for path in SOURCES.glob("v*/go.mod"):
        required = dict(re.findall(r"^\s+(\S+) (v\S+)", path.read_text(), re.MULTILINE))
        found.append(Release(required["k8s.io/kubernetes"], required["github.com/k3s-io/kine"], path.parent))
    return tuple(
        sorted(found, key=lambda release: [int(part) for part in release.version[1:].split(".")], reverse=True)
    )


def release(version: str | None) -> Release:
    """The release of that version, the newest if None. Raises `Error`."""
    known = releases()
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


def key(chosen: Release, architecture: Architecture) -> str:
    """The key of the binary: sources, go.sum, toolchain, architecture."""
    sources = [file_digest(path) for path in sorted([*SOURCES.glob("*.go"), *chosen.folder.iterdir()])]
    return content_key("kubernetes", chosen.version, sources, toolchain.key(), architecture, variables(chosen))


def variables(chosen: Release) -> list[str]:
    """What the linker sets, so that `kubectl version` and the node's info are right. No date: it would differ."""
    major, minor, _ = chosen.version[1:].split(".")
    values = {"gitVersion": chosen.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    packages = ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version")
    lines = [f"{package}.{name}={value}" for package in packages for name, value in values.items()]
    return [*lines, f"github.com/k3s-io/kine/pkg/version.Version={chosen.kine}"]


def binary(chosen: Release, architecture: Architecture, cache: Cache, folder: Path | None = None) -> Path:
    """The binary, from the cache or built: 6 minutes on 2 cores the first time, seconds where only our files differ."""

    def make(path: Path) -> None:
        title = f"compiling Kubernetes {chosen.version} for {architecture} (6 min on 2 cores if it is the first time)"
        with log.step(title), tempfile.TemporaryDirectory(prefix="edge-osbuild-") as scratch:
            for source in [*SOURCES.glob("*.go"), *chosen.folder.iterdir()]:
                shutil.copy(source, scratch)
            toolchain.build(Path(scratch), ".", path, architecture, cache, variables=variables(chosen), folder=folder)

    return cache.entry("kubernetes", key(chosen, architecture), make)


def small(name: str, architecture: Architecture, cache: Cache, folder: Path | None = None) -> Path:
    """One of our small programs below programs/: `demo`, `node`, `pause` or `pki`."""
    parts = (toolchain.sources_key(SMALL / name), (SMALL / "go.mod").read_text(), toolchain.key())

    def make(path: Path) -> None:
        with log.step(f"compiling {name} for {architecture}"):
            toolchain.build(SMALL, f"./{name}", path, architecture, cache, folder=folder)

    return cache.entry("kubernetes", content_key(name, architecture, parts), make)
