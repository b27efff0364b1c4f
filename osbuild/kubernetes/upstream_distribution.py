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
from osbuild.kubernetes import addon_images, upstream_programs
from osbuild.kubernetes.distribution import PACKAGES, ComponentSources, DistributionProgram, Pin
from osbuild.kubernetes.image_archive import ImageArchive
from osbuild.kubernetes.tree_files import LIB, install_file
from osbuild.shared.components import addons_left_out

FILES = ("go.mod", "go.sum")


def module_files(release: Path, settings: KubernetesSettings) -> dict[str, str]:
    """Return the SHA-256 of the files that pin the Go modules: those of Kubernetes, and those of the add-ons."""
    folders = {"": release}
    for image in addon_images.find_images(addons_left_out(settings)):
        folders |= {f"{name}/": addon_images.ADDONS / name for name in image.module_folders}
    return {f"{prefix}{name}": file_digest(folder / name) for prefix, folder in folders.items() for name in FILES}


class UpstreamDistribution:
    """Implements `Distribution` for upstream."""

    name = "upstream"
    packages = (*PACKAGES, "containernetworking-plugins", "ipset")
    network = ("/usr/lib/cni", "/etc/cni/net.d")

    def requested_version(self, settings: KubernetesSettings) -> str:
        return upstream_versions.find_release(settings.version).version

    def pin(self, settings: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        release = upstream_versions.find_release(settings.version)
        return Pin(release.version, module_files(release.folder, settings))

    def current_files(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        return module_files(upstream_versions.find_release(pin.version).folder, settings)

    def locked_settings(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        return replace(settings, version=pin.version)

    def key(self, settings: KubernetesSettings, architecture: Architecture) -> list[Any]:
        chosen = upstream_versions.find_release(settings.version)
        addons = addon_images.addons_key(addons_left_out(settings), architecture)
        return [upstream_programs.binary_key(chosen, architecture), addons, file_digest(Path(__file__))]

    def prepare(
        self, settings: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        chosen = upstream_versions.find_release(settings.version)
        left_out = addons_left_out(settings)

        def install(tree: Path) -> None:
            binary = upstream_programs.build_binary(chosen, architecture, sources.cache, sources.downloads)
            install_file(binary, tree / "usr/bin/edge-kubernetes", 0o755)
            pki = upstream_programs.build_small_program("pki", architecture, sources.cache, sources.downloads)
            install_file(pki, tree / LIB / "edge-pki", 0o755)
            for name in upstream_programs.PROGRAMS:
                (tree / "usr/bin" / name).symlink_to("edge-kubernetes")
            addon_images.install_manifests(tree, left_out, architecture)

        def write_images(folder: Path) -> list[ImageArchive]:
            archives = []
            for image in addon_images.find_images(left_out):
                program = addon_images.build_program(image, architecture, sources.cache, sources.downloads)
                path = folder / f"edge-{image.name}.tar"
                archives.append(addon_images.write_image(path, image, architecture, program))
            return archives

        metadata = {"distribution": self.name, "kine": chosen.kine, "version": chosen.version}
        return DistributionProgram(metadata, install, write_images)
