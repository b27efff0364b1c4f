"""The K3s distribution: the official release, unpacked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import file_digest
from osbuild.inputs.context import BuildContext
from osbuild.kubernetes import k3s_airgap, k3s_payload, k3s_release
from osbuild.kubernetes.distribution import PACKAGES, ComponentSources, DistributionProgram, Pin
from osbuild.kubernetes.image_archive import ImageArchive
from osbuild.kubernetes.tree_files import LIB, install_file, write_public

COMMAND = Path(__file__).with_name("k3s.sh")
PROGRAMS = Path("usr/lib/k3s/bin")  # K3s' inner program and its CNI plugins, including flannel
# K3s' kubectl reads /etc/rancher/k3s/k3s.yaml, a link to the administrator's kubeconfig, also for users without root.
# Some K3s commands read neither the configuration file nor K3S_DATA_DIR; they use this default path.
TMPFILES = """\
d /etc/rancher 0755
d /etc/rancher/k3s 0755
d /var/lib/rancher 0755
L /var/lib/rancher/k3s - - - - /var/lib/kubernetes
"""


class K3sDistribution:
    """Implements `Distribution` for K3s, which has its own CNI plugins."""

    name = "k3s"
    packages = PACKAGES
    network = (f"/{PROGRAMS}", "/var/lib/kubernetes/agent/etc/cni/net.d")

    def requested_version(self, settings: KubernetesSettings) -> str:
        return k3s_release.requested_version(settings)

    def pin(self, settings: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        chosen = k3s_release.find_release(settings, architecture, context.downloads)
        binary = k3s_release.download_release(chosen, context.cache, context.downloads)
        k3s_payload.check_machine(binary, architecture)
        files = [chosen]
        if settings.airgap:
            images = k3s_release.find_airgap_images(settings, architecture, context.downloads)
            k3s_release.download_release(images, context.cache, context.downloads)
            files.append(images)
        return Pin(chosen.version, {file.filename: file.sha256 for file in files})

    def current_files(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        name = k3s_release.binary_name(pin.version, architecture)
        files = {name: k3s_release.known_sha256(settings, pin.version, architecture) or pin.files[name]}
        if settings.airgap:
            images = f"{k3s_release.airgap_asset(architecture)}-{pin.version}"
            files[images] = settings.airgap_sha256.get(architecture, pin.files.get(images, "")).lower()
        return files

    def locked_settings(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        sha256 = pin.files[k3s_release.binary_name(pin.version, architecture)]
        locked = replace(settings, version=pin.version, sha256={**settings.sha256, architecture: sha256})
        if not settings.airgap:
            return locked
        images = pin.files[f"{k3s_release.airgap_asset(architecture)}-{pin.version}"]
        return replace(locked, airgap_sha256={**settings.airgap_sha256, architecture: images})

    def key(self, settings: KubernetesSettings, architecture: Architecture) -> list[Any]:
        code = [
            file_digest(path)
            for path in (Path(__file__), Path(k3s_airgap.__file__), Path(k3s_payload.__file__), COMMAND)
        ]
        images = k3s_release.find_airgap_images(settings, architecture).sha256 if settings.airgap else None
        return [k3s_release.find_release(settings, architecture).sha256, images, k3s_payload.FORMAT, code]

    def prepare(
        self, settings: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        chosen = k3s_release.find_release(settings, architecture, sources.downloads)
        program = k3s_release.download_release(chosen, sources.cache, sources.downloads)
        unpacked = k3s_payload.unpack_payload(program, chosen.sha256, architecture, sources.cache, sources.tools())

        def install(tree: Path) -> None:
            k3s_payload.install_payload(unpacked, tree / PROGRAMS)
            install_file(COMMAND, tree / "usr/bin/k3s", 0o755)
            for name in ("kubectl", "crictl"):
                (tree / "usr/bin" / name).symlink_to("../lib/k3s/bin/k3s")
            (tree / "usr/lib/tmpfiles.d").mkdir()
            write_public(tree / "usr/lib/tmpfiles.d/edge-k3s.conf", TMPFILES)
            # With the password in this folder, K3s proves that a node is the owner of its name.
            (tree / LIB / "persist.d").mkdir(parents=True)
            write_public(tree / LIB / "persist.d/k3s", "/etc/rancher/node\n")

        def write_images(folder: Path) -> list[ImageArchive]:
            if not settings.airgap:
                return []
            images = k3s_release.find_airgap_images(settings, architecture, sources.downloads)
            archive = k3s_release.download_release(images, sources.cache, sources.downloads)
            unpacked = k3s_airgap.unpack_images(archive, images.sha256, architecture, sources.cache, sources.tools())
            return [k3s_airgap.install_images(folder, unpacked, images)]

        metadata = {"distribution": self.name, "sha256": chosen.sha256, "version": chosen.version}
        return DistributionProgram(metadata, install, write_images)
