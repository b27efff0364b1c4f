"""Versions of Kubernetes: the running one, and those to which a node may change.

Cluster data can be migrated to the next minor version only, and not back (Kubernetes documentation, "Version Skew
Policy"). Patch versions of one minor version have the same API objects and storage format (same documentation,
"Kubernetes Release Versioning"), so changes between them are possible in both directions.
"""

from dataclasses import dataclass

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.kubernetes_versions import version_numbers


@dataclass(frozen=True)
class KubernetesVersion:
    """A distribution (`k3s`, `upstream`) and its version, such as `v1.35.0+k3s1`. Raises `Problem` if not valid."""

    distribution: str
    version: str

    def __post_init__(self) -> None:
        if not self.distribution or version_numbers(self.version) is None:
            raise Problem(f"{self!s:.100} is not a Kubernetes version", hint="write it like `upstream v1.36.3`")

    @classmethod
    def parse(cls, text: str) -> "KubernetesVersion":
        """Parse `DISTRIBUTION VERSION`, the form in bundles. Raises `Problem`."""
        distribution, _, version = text.strip().partition(" ")
        return cls(distribution, version)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Major, minor, patch and K3s' own number, for comparisons."""
        numbers = version_numbers(self.version)
        assert numbers
        return numbers

    @property
    def minor(self) -> tuple[int, ...]:
        return self.numbers[:2]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def read_role(system: System) -> str:
    """The role in the running image: `server`, `agent` or `none`."""
    return system.image().kubernetes.role or "none"


def running_version(system: System) -> KubernetesVersion | None:
    """The version in the running image; None without Kubernetes. Raises `Problem`."""
    kubernetes = system.image().kubernetes
    if kubernetes.role in (None, "none") or not kubernetes.version:
        return None
    return KubernetesVersion(str(kubernetes.distribution), kubernetes.version)


def needs_migration(old: KubernetesVersion, new: KubernetesVersion) -> bool:
    """Whether `new` may store data in a form that `old` cannot read."""
    return old.distribution != new.distribution or new.minor > old.minor


def refuse_version(old: KubernetesVersion | None, text: str) -> str | None:
    """Why a node with `old` must not get the version `text` (`DISTRIBUTION VERSION`, or empty); None if it may."""
    if old is None:
        return None
    if not text.strip():
        return f"the bundle contains no Kubernetes, but this node runs {old}, and its cluster would stop"
    try:
        new = KubernetesVersion.parse(text)
    except Problem as problem:
        return str(problem)
    if new.distribution != old.distribution:
        created = f"this node's cluster was created with {old.distribution}"
        return f"the bundle contains the distribution {new.distribution}, but {created}"
    if new.numbers < old.numbers:
        older = f"the bundle contains Kubernetes {new.version}, older than {old.version}"
        return f"{older}; cluster data cannot be migrated back"
    if new.minor[0] != old.minor[0] or new.minor[1] > old.minor[1] + 1:
        between = f"{old.minor[0]}.{old.minor[1] + 1}"
        newer = f"the bundle contains Kubernetes {new.version}, more than one minor version newer than {old.version}"
        return f"{newer}; update to v{between} first"
    return None
