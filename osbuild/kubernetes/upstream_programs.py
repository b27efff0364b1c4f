"""The upstream distribution: one static binary that contains all Kubernetes programs and kine."""

import shutil
from pathlib import Path

from osbuild.config.upstream_versions import SOURCES, UpstreamRelease
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.kubernetes import go_toolchain
from osbuild.shared.kubernetes_versions import minor_version

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


def binary_key(chosen: UpstreamRelease, architecture: Architecture) -> str:
    """Return the content key of the binary: sources, go.sum, toolchain and architecture."""
    sources = [file_digest(path) for path in sorted([*SOURCES.glob("*.go"), *chosen.folder.iterdir()])]
    return content_key(
        "kubernetes", chosen.version, sources, go_toolchain.toolchain_key(), architecture, linker_variables(chosen)
    )


def linker_variables(chosen: UpstreamRelease) -> list[str]:
    """Return the linker variables for the version in `kubectl version` and in the node's status.

    They contain no date, so that builds are reproducible.
    """
    major, minor = minor_version(chosen.version) or ("", "")
    values = {"gitVersion": chosen.version, "gitMajor": str(major), "gitMinor": str(minor), "gitTreeState": "archive"}
    packages = ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version")
    lines = [f"{package}.{name}={value}" for package in packages for name, value in values.items()]
    return [*lines, f"github.com/k3s-io/kine/pkg/version.Version={chosen.kine}"]


def build_binary(chosen: UpstreamRelease, architecture: Architecture, cache: Cache, folder: Path | None = None) -> Path:
    """Return the binary, from the cache or built. Raises `Error`.

    A first build takes 6 minutes on 2 cores, a build after a change of our own sources some seconds.
    """

    def make(path: Path) -> None:
        title = f"compiling Kubernetes {chosen.version} for {architecture} (6 min on 2 cores if it is the first time)"
        with log.step(title):
            sources = path.with_name("sources")
            sources.mkdir()
            for source in [*SOURCES.glob("*.go"), *chosen.folder.iterdir()]:
                shutil.copy(source, sources)
            program = go_toolchain.GoProgram(sources, variables=tuple(linker_variables(chosen)))
            go_toolchain.build_program(program, path, architecture, cache, folder=folder)

    return cache.get_or_make("kubernetes", binary_key(chosen, architecture), make)


def build_small_program(name: str, architecture: Architecture, cache: Cache, folder: Path | None = None) -> Path:
    """Return one of our small programs in programs/: `demo`, `node`, `pause` or `pki`. Raises `Error`."""
    parts = (go_toolchain.sources_key(SMALL / name), (SMALL / "go.mod").read_text(), go_toolchain.toolchain_key())

    def make(path: Path) -> None:
        with log.step(f"compiling {name} for {architecture}"):
            program = go_toolchain.GoProgram(SMALL, f"./{name}")
            go_toolchain.build_program(program, path, architecture, cache, folder=folder)

    return cache.get_or_make("kubernetes", content_key(name, architecture, parts), make)
