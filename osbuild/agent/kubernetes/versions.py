"""Releases of Kubernetes: which one runs, and to which others a node may go.

A cluster's data goes up by one minor version at a time, and not down (Kubernetes documentation, "Version Skew Policy").
Within a minor version neither the API's objects nor how they are stored change (same place, "Kubernetes Release
Versioning"): such a step is free in both directions.
"""

from dataclasses import dataclass

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.kubernetes_versions import version_numbers


@dataclass(frozen=True)
class KubernetesVersion:
    """A distribution (`k3s`, `upstream`) and its version, such as `v1.35.0+k3s1`. Raises `Problem` for another form."""

    distribution: str
    version: str

    def __post_init__(self) -> None:
        if not self.distribution or version_numbers(self.version) is None:
            raise Problem(f"{self!s:.100} is no release of Kubernetes", hint="such as `upstream v1.36.3`")

    @classmethod
    def parse(cls, text: str) -> "KubernetesVersion":
        """From `distribution version`, as a bundle has it. Raises `Problem`."""
        distribution, _, version = text.strip().partition(" ")
        return cls(distribution, version)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Major, minor, patch and K3s' own number, to compare by."""
        numbers = version_numbers(self.version)
        assert numbers
        return numbers

    @property
    def minor(self) -> tuple[int, ...]:
        return self.numbers[:2]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def read_role(system: System) -> str:
    """What the running image makes of the node: `server`, `agent` or `none`."""
    return str((system.image().get("kubernetes") or {}).get("role") or "none")


def running_version(system: System) -> KubernetesVersion | None:
    """The release in the running image; None where it has none."""
    found = system.image().get("kubernetes") or {}
    if found.get("role") in (None, "none") or not found.get("version"):
        return None
    return KubernetesVersion(str(found.get("distribution")), str(found["version"]))


def migrates(old: KubernetesVersion, new: KubernetesVersion) -> bool:
    """Whether `new` may store things in a way that `old` does not know."""
    return old.distribution != new.distribution or new.minor > old.minor


def refuse_version(old: KubernetesVersion | None, wanted: str) -> str | None:
    """Why a node with `old` must not get `wanted` (`distribution version`, empty for none); None if it may."""
    if old is None:
        return None
    if not wanted.strip():
        return f"it has no Kubernetes, and this node runs {old}: its cluster would stop"
    try:
        new = KubernetesVersion.parse(wanted)
    except Problem as problem:
        return str(problem)
    if new.distribution != old.distribution:
        return f"it has the distribution {new.distribution}, and this node's cluster was made by {old.distribution}"
    if new.numbers < old.numbers:
        return f"it has Kubernetes {new.version}, older than {old.version}: a cluster's data does not go back"
    if new.minor[0] != old.minor[0] or new.minor[1] > old.minor[1] + 1:
        between = f"{old.minor[0]}.{old.minor[1] + 1}"
        return f"it has Kubernetes {new.version}, more than one minor version after {old.version}: first to v{between}"
    return None
