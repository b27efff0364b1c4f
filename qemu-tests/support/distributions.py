"""The distributions of Kubernetes that clusters are tested with, and everything that differs between them.

Tests do not name units or files of a distribution. They run on K3s if its releases are available like for a build: on
the release page, a mirror (EDGE_OSBUILD_K3S_MIRROR) or in a folder (EDGE_OSBUILD_FOLDER). EDGE_TEST_K3S names the
releases to test, the older one first.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.config import upstream_versions
from osbuild.config.load import find_profile, load_profile
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.output import write_output
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.kubernetes.k3s_pins import K3S as PINNED
from osbuild.pipeline import resolve
from osbuild.shared.errors import Error
from support.helm_jobs import pack_chart

RELEASES = "EDGE_TEST_K3S"
CHART = "shop-1.0.0.tgz"
SHOP = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: "localhost/edge-demo:1", imagePullPolicy: Never}]}
"""
"""what the chart installs"""
PACKAGED = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server")


@dataclass(frozen=True, kw_only=True)
class DistributionUnderTest:
    """`releases` are an older and a newer one; `units` and `kubelet` are units of a server."""

    name: str
    flavour: str
    """the flavour in `versions.py`"""
    releases: tuple[str, ...]
    units: tuple[str, ...]
    """in the order in which a shutdown stops them; pods end before"""
    kubelet: str
    """the unit whose program is the kubelet"""
    agent_kubeconfig: str
    """the kubeconfig with which an agent calls its cluster"""
    starts_pods_alone: bool
    """whether an agent node starts its pods after a boot without its server"""

    @property
    def changes_minor(self) -> bool:
        """Whether an update from the older to the newest release changes the minor version, so that a rollback restores
        the cluster's data."""
        minors = [KubernetesVersion(self.name, release).minor for release in (self.releases[0], self.releases[-1])]
        return minors[0] != minors[1]

    def missing(self, architecture: Architecture, count: int = 1) -> str | None:
        """Return why a test that needs the newest `count` releases can't run on this host; None if it can."""
        if len(self.releases) < count:
            return f"{RELEASES} names {len(self.releases)} release of {self.name}, this needs {count}"
        for version in self.releases[-count:]:
            if reason := unavailable_reason(self.name, version, architecture):
                return f"{self.name} {version} is not available here: {reason}"
        return None


@cache
def unavailable_reason(name: str, version: str, architecture: Architecture, *, airgap: bool = False) -> str | None:
    """Return why a release, or its archive of container images, is not available; None if it is. It is cached."""
    try:
        resolve.pin_kubernetes(
            replace(KubernetesSettings(), role="server", distribution=name, version=version, airgap=airgap),
            architecture,
            BuildContext(Cache()),
        )
    except Unavailable as error:
        return error.message.splitlines()[0]
    except Error as error:
        if not airgap:
            raise
        return error.message
    return None


UPSTREAM = DistributionUnderTest(
    name="upstream",
    flavour="server",
    releases=tuple(release.version for release in reversed(upstream_versions.list_releases())),
    units=("kubernetes-server.service", "containerd.service"),
    kubelet="kubelet.service",
    agent_kubeconfig="/var/lib/kubernetes/kubelet.conf",
    starts_pods_alone=True,
)
K3S = DistributionUnderTest(
    name="k3s",
    flavour="server-k3s",
    releases=tuple(os.environ.get(RELEASES, "").split() or reversed(PINNED)),
    units=("k3s-server.service", "containerd.service"),
    kubelet="k3s-server.service",
    agent_kubeconfig="/var/lib/kubernetes/agent/kubelet.kubeconfig",
    starts_pods_alone=False,
)
ALL = {each.name: each for each in (UPSTREAM, K3S)}


def profile_lines(distribution: DistributionUnderTest, release: str) -> list[str]:
    """Return the lines below `kubernetes:` of a profile with exactly this distribution and release."""
    lines = [f"  distribution: {distribution.name}", f"  version: {release}", "  if_unavailable: null"]
    # K3s' packaged components need container images, which a node without a network can't download.
    return [*lines, f"  disable: [{', '.join(PACKAGED)}]"] if distribution is K3S else lines


def shipped_distribution(architecture: Architecture) -> DistributionUnderTest:
    """Return the distribution that the shipped profiles get on this host: K3s if it is available."""
    settings = load_profile(find_profile("edge-server")).profile.kubernetes
    assert settings.distribution == K3S.name and settings.if_unavailable == UPSTREAM.name
    return UPSTREAM if unavailable_reason(K3S.name, settings.version or next(iter(PINNED)), architecture) else K3S


def missing_addons(distribution: DistributionUnderTest, architecture: Architecture) -> str | None:
    """Return why the distribution has no container images of add-ons on this host; None if it has them."""
    if distribution is not K3S:
        return None
    release = distribution.releases[-1]
    reason = unavailable_reason(distribution.name, release, architecture, airgap=True)
    return f"no container images of {distribution.name} {release} here: {reason}" if reason else None


def profile_with_addons(distribution: DistributionUnderTest, architecture: Architecture, folder: Path) -> Path:
    """Return a profile of a server, with its add-ons unless K3s' container images are not available here."""
    if distribution is not K3S or missing_addons(distribution, architecture):
        return profile_for("edge-server", distribution, architecture, folder)
    lines = [f"  distribution: {K3S.name}", f"  version: {distribution.releases[-1]}", "  if_unavailable: null"]
    return write_profile(folder / "edge-server-k3s-addons.yaml", "edge-server", [*lines, "  airgap: true"])


def profile_with_chart(distribution: DistributionUnderTest, architecture: Architecture, folder: Path) -> Path:
    """Return a profile of a server with its add-ons, Helm and a chart, or without them if K3s has no images here."""
    base = profile_with_addons(distribution, architecture, folder)
    if missing_addons(distribution, architecture):
        return base
    path = folder / f"edge-server-chart-{distribution.name}.yaml"
    write_unless_same(folder / CHART, pack_chart(template=SHOP))
    return write_profile(path, str(base), ["  helm: true", f"  charts: [{CHART}]"])


def profile_for(name: str, distribution: DistributionUnderTest, architecture: Architecture, folder: Path) -> Path:
    """Return a shipped profile, or if it would not get that distribution, a profile in `folder` that extends it."""
    if distribution is shipped_distribution(architecture):
        return find_profile(name)
    path = folder / f"{name}-{distribution.name}.yaml"
    return write_profile(path, name, profile_lines(distribution, distribution.releases[-1]))


def write_profile(path: Path, base: str, lines: Sequence[str]) -> Path:
    """Write a profile that extends `base`; `lines` are those below `kubernetes:`. Returns its path."""
    text = "\n".join([f"name: {path.stem}", f"extends: {base}", "kubernetes:", *lines]) + "\n"
    write_unless_same(path, text.encode())
    return path


def write_unless_same(path: Path, content: bytes) -> None:
    """Write a file atomically, because another process that runs tests may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        write_output(path, content)
