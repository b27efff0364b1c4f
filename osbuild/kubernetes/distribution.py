"""The protocol of a Kubernetes distribution: a pin in the lock, a content key, and programs in a file tree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.kubernetes.image_archive import ImageArchive
from osbuild.sandbox.tools_tree import ToolsTree

# Debian packages that a node needs: kube-proxy uses nftables, the CNI plugins use iptables, kubectl's completion uses
# the functions of bash-completion, and containerd loads its AppArmor profile with apparmor_parser.
PACKAGES: tuple[str, ...] = ("apparmor", "bash-completion", "containerd", "iptables", "nftables", "runc")


@dataclass(frozen=True)
class ComponentSources:
    """Where a build gets its inputs.

    Paths of container images and manifests are relative to `base`, the profile's folder. `tools` creates the tools tree
    with the programs that unpack K3s.
    """

    context: BuildContext
    tools: Callable[[], ToolsTree]
    base: Path = Path()

    @property
    def cache(self) -> Cache:
        return self.context.cache

    @property
    def downloads(self) -> Path | None:
        return self.context.downloads


@dataclass(frozen=True)
class Pin:
    """The pin of Kubernetes in a lock: the version, and the SHA-256 of each input."""

    version: str
    files: Mapping[str, str]


def no_images(folder: Path) -> list[ImageArchive]:
    return []


@dataclass(frozen=True)
class DistributionProgram:
    """What is installed. `metadata` is added to the build manifest; `install` writes the programs to a file tree.

    `write_images` writes archives of the distribution's own container images to a folder, and returns them.
    """

    metadata: Mapping[str, Any]
    install: Callable[[Path], None]
    write_images: Callable[[Path], list[ImageArchive]] = no_images


class Distribution(Protocol):
    """A distribution of Kubernetes. `settings` are those of the profile, with the lock's version if there is a lock.

    `packages` are Debian packages. `network` are the folders of CNI plugins and of their configuration.
    """

    name: str
    packages: tuple[str, ...]
    network: tuple[str, str]

    def requested_version(self, settings: KubernetesSettings) -> str:
        """Return the version in the profile's settings, or the default version."""
        ...

    def pin(self, settings: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        """Pin the version and its inputs. Raises `Error`, and `Unavailable` if no source has the release."""
        ...

    def current_files(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        """Return the inputs of a locked version that this program and the profile pin now."""
        ...

    def locked_settings(self, settings: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        """Return the settings with the lock's pin."""
        ...

    def key(self, settings: KubernetesSettings, architecture: Architecture) -> list[Any]:
        """Return the part of a content key for everything that the programs depend on."""
        ...

    def prepare(
        self, settings: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        """Download or build what is installed. Raises `Error`."""
        ...
