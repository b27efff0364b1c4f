"""What a distribution of Kubernetes is to a build: a pin in the lock, a content key, and programs in a tree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.sandbox.tools_tree import ToolsTree

# What a node needs of Debian. nftables is kube-proxy's, iptables is for the CNI plugins.
PACKAGES: tuple[str, ...] = ("containerd", "iptables", "nftables", "runc")


@dataclass(frozen=True)
class ComponentSources:
    """Where a build takes its inputs from.

    `base` is the profile's folder, from which paths of container images and manifests start; `tools` makes the tree
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
    """What a lock says of Kubernetes: the version, and the sha256 of each input."""

    version: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class DistributionProgram:
    """What is installed: `metadata` goes into the build manifest, `install` writes the programs into a tree."""

    metadata: Mapping[str, Any]
    install: Callable[[Path], None]


class Distribution(Protocol):
    """Where Kubernetes comes from. `block` is the profile's, with the version that the lock has, once there is one.

    `packages` are Debian's. `network` are the folders of CNI plugins and of their configuration. With
    `network_template`, containerd fills in the range of pod addresses later.
    """

    name: str
    packages: tuple[str, ...]
    network: tuple[str, str]
    network_template: bool

    def requested_version(self, block: KubernetesSettings) -> str:
        """The version that a profile asks for."""
        ...

    def pin(self, block: KubernetesSettings, architecture: Architecture, context: BuildContext) -> Pin:
        """Decide the version and its inputs. Raises `Error`, and `Unavailable` if no place has the release."""
        ...

    def current_files(self, block: KubernetesSettings, architecture: Architecture, pin: Pin) -> Mapping[str, str]:
        """The inputs of a locked version as this program and the profile have them now."""
        ...

    def locked_settings(self, block: KubernetesSettings, architecture: Architecture, pin: Pin) -> KubernetesSettings:
        """The block as the lock has decided it."""
        ...

    def key(self, block: KubernetesSettings, architecture: Architecture) -> list[Any]:
        """What the programs depend on, for a content key."""
        ...

    def prepare(
        self, block: KubernetesSettings, architecture: Architecture, sources: ComponentSources
    ) -> DistributionProgram:
        """Get what is installed. Raises `Error`."""
        ...
