"""The distributions of Kubernetes, by the name that a profile gives."""

from collections.abc import Mapping

from osbuild.kubernetes.distribution import Distribution
from osbuild.kubernetes.k3s_distribution import K3sDistribution
from osbuild.kubernetes.upstream_distribution import UpstreamDistribution

KNOWN: tuple[Distribution, ...] = (K3sDistribution(), UpstreamDistribution())
DISTRIBUTIONS: Mapping[str, Distribution] = {distribution.name: distribution for distribution in KNOWN}
