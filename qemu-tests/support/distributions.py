"""The distributions of Kubernetes that clusters are tested with, and all that a test must know of one.

Tests name no unit and no file of a distribution. They run on K3s wherever its releases can be had: from the release
page, a mirror (EDGE_OSBUILD_K3S_MIRROR) or a folder (EDGE_OSBUILD_FOLDER), as a build finds them. EDGE_TEST_K3S names
the releases to take, the older one first.
"""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from osbuild.config import upstream_versions
from osbuild.config.load import find_profile, load_profile
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.kubernetes.k3s_pins import K3S as PINNED
from osbuild.pipeline import resolve

RELEASES = "EDGE_TEST_K3S"
PACKAGED = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server")


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """`releases` are an older and a newer one; units are those of a server."""

    name: str
    flavour: str
    """of `versions.py`"""
    releases: tuple[str, ...]
    units: tuple[str, ...]
    """in the order in which a shutdown ends them; pods end before all of them"""
    kubelet: str
    """the unit whose program is the kubelet"""
    agent_kubeconfig: str
    """what an agent calls its cluster with"""
    spans_nodes: bool
    """whether pods are reached from other nodes"""

    def missing(self, architecture: Architecture, count: int = 1) -> str | None:
        """Why a test that needs the newest `count` releases can't be on this host; None if it can."""
        if len(self.releases) < count:
            return f"{RELEASES} names {len(self.releases)} release of {self.name}, this needs {count}"
        for version in self.releases[-count:]:
            if reason := unavailable(self.name, version, architecture):
                return f"{self.name} {version} cannot be had here: {reason}"
        return None


@cache
def unavailable(name: str, version: str, architecture: Architecture) -> str | None:
    """Why no place has a release; asked once."""
    try:
        resolve.pin_kubernetes(
            replace(KubernetesSettings(), role="server", distribution=name, version=version),
            architecture,
            BuildContext(Cache()),
        )
    except Unavailable as error:
        return error.message.splitlines()[0]
    return None


UPSTREAM = Distribution(
    name="upstream",
    flavour="server",
    releases=tuple(release.version for release in reversed(upstream_versions.list_releases())),
    units=("kube-apiserver.service", "kine.service", "containerd.service"),
    kubelet="kubelet.service",
    agent_kubeconfig="/var/lib/kubernetes/kubelet.conf",
    spans_nodes=False,
)
K3S = Distribution(
    name="k3s",
    flavour="server-k3s",
    releases=tuple(os.environ.get(RELEASES, "").split() or reversed(PINNED)),
    units=("k3s-server.service", "containerd.service"),
    kubelet="k3s-server.service",
    agent_kubeconfig="/var/lib/kubernetes/agent/kubelet.kubeconfig",
    spans_nodes=True,
)
ALL = {each.name: each for each in (UPSTREAM, K3S)}


def wanted(distribution: Distribution, release: str) -> list[str]:
    """Lines below `kubernetes:` in a profile that asks for that and for nothing else."""
    lines = [f"  distribution: {distribution.name}", f"  version: {release}", "  if_unavailable: null"]
    # What K3s brings has images that a node without a network can't get.
    return [*lines, f"  disable: [{', '.join(PACKAGED)}]"] if distribution is K3S else lines


def shipped(architecture: Architecture) -> Distribution:
    """What the shipped profiles get on this host: K3s where it can be had."""
    asked = load_profile(find_profile("edge-server")).profile.kubernetes
    assert asked.distribution == K3S.name and asked.if_unavailable == UPSTREAM.name
    return UPSTREAM if unavailable(K3S.name, asked.version or next(iter(PINNED)), architecture) else K3S


def profile(name: str, distribution: Distribution, architecture: Architecture, folder: Path) -> Path:
    """The shipped profile of that name with a distribution: itself if it gets that, else one in `folder`."""
    if distribution is shipped(architecture):
        return find_profile(name)
    path = folder / f"{name}-{distribution.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"name: {path.stem}", f"extends: {name}", "kubernetes:", *wanted(distribution, distribution.releases[-1])]
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path
