"""The upstream distribution: Kubernetes compiled from its own Go modules."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.config import upstream_versions
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import file_digest
from osbuild.inputs.context import BuildContext
from osbuild.kubernetes import upstream_programs
from osbuild.kubernetes.distribution import PACKAGES, ComponentSources, DistributionProgram, Pin
from osbuild.kubernetes.tree_files import LIB, install_file

FILES = ("go.mod", "go.sum")


class UpstreamDistribution:
    """Implements `Distribution` for upstream. Agent nodes get their pod addresses later; containerd fills them in."""

    name = "upstream"
    packages = (*PACKAGES, "containernetworking-plugins")
    network = ("/usr/lib/cni", "/etc/cni/net.d")
    network_template = True

    def requested_version(self, settings: KubernetesSettings) -> str:
        return upstream_versions.find_release(settings.version).version

    def pin(self, settings: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        release = upstream_versions.find_release(settings.version)
        return Pin(release.version, {name: file_digest(release.folder / name) for name in FILES})

    def current_files(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        folder = upstream_versions.find_release(pin.version).folder
        return {name: file_digest(folder / name) for name in FILES}

    def locked_settings(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        return replace(settings, version=pin.version)

    def key(self, settings: KubernetesSettings, architecture: Architecture) -> list[Any]:
        chosen = upstream_versions.find_release(settings.version)
        return [upstream_programs.binary_key(chosen, architecture), file_digest(Path(__file__))]

    def prepare(
        self, settings: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        chosen = upstream_versions.find_release(settings.version)

        def install(tree: Path) -> None:
            binary = upstream_programs.build_binary(chosen, architecture, sources.cache, sources.downloads)
            install_file(binary, tree / "usr/bin/edge-kubernetes", 0o755)
            pki = upstream_programs.build_small_program("pki", architecture, sources.cache, sources.downloads)
            install_file(pki, tree / LIB / "edge-pki", 0o755)
            for name in upstream_programs.PROGRAMS:
                (tree / "usr/bin" / name).symlink_to("edge-kubernetes")

        metadata = {"distribution": self.name, "kine": chosen.kine, "version": chosen.version}
        return DistributionProgram(metadata, install)
