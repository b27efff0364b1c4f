"""The K3s distribution: the official release, unpacked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import file_digest
from osbuild.inputs.context import BuildContext
from osbuild.kubernetes import k3s_payload, k3s_release
from osbuild.kubernetes.distribution import PACKAGES, ComponentSources, DistributionProgram, Pin
from osbuild.kubernetes.tree_files import LIB, install_file, write_public

COMMAND = Path(__file__).with_name("k3s.sh")
PROGRAMS = Path("usr/lib/k3s/bin")  # K3s' inner program and its CNI plugins, including flannel
# Some K3s commands read neither the configuration file nor K3S_DATA_DIR; they use this default path.
TMPFILES = """\
d /var/lib/rancher 0755
L /var/lib/rancher/k3s - - - - /var/lib/kubernetes
"""


class K3sDistribution:
    """Implements `Distribution` for K3s, which has its own CNI plugins."""

    name = "k3s"
    packages = PACKAGES
    network = (f"/{PROGRAMS}", "/var/lib/kubernetes/agent/etc/cni/net.d")
    network_template = False

    def requested_version(self, settings: KubernetesSettings) -> str:
        return k3s_release.requested_version(settings)

    def pin(self, settings: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        chosen = k3s_release.find_release(settings, architecture, context.downloads)
        binary = k3s_release.download_binary(chosen, context.cache, context.downloads)
        k3s_payload.check_machine(binary, architecture)
        return Pin(chosen.version, {chosen.filename: chosen.sha256})

    def current_files(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        name = k3s_release.binary_name(pin.version, architecture)
        return {name: k3s_release.known_sha256(settings, pin.version, architecture) or pin.files[name]}

    def locked_settings(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        (sha256,) = pin.files.values()
        return replace(settings, version=pin.version, sha256={**settings.sha256, architecture: sha256})

    def key(self, settings: KubernetesSettings, architecture: Architecture) -> list[Any]:
        code = [file_digest(path) for path in (Path(__file__), Path(k3s_payload.__file__), COMMAND)]
        return [k3s_release.find_release(settings, architecture).sha256, k3s_payload.FORMAT, code]

    def prepare(
        self, settings: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        chosen = k3s_release.find_release(settings, architecture, sources.downloads)
        program = k3s_release.download_binary(chosen, sources.cache, sources.downloads)
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

        metadata = {"distribution": self.name, "sha256": chosen.sha256, "version": chosen.version}
        return DistributionProgram(metadata, install)
