"""The Kubernetes settings of a node, which image and seed provide and the edge agent reads."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from osbuild.shared import cluster_ranges

STABLE_ADDRESS = "203.0.113.254"  # of the interface edge0, which always exists (TEST-NET-3, RFC 5737)
API_PORT = 6443


@dataclass(frozen=True)
class NodeSettings:
    """The block `kubernetes` of the profile (osbuild/config/profile.py), with secrets instead of references to them."""

    role: str = "none"
    token: str | None = None
    server: str | None = None
    node_ip: str | None = None
    disable: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    node_name: str = "localhost"

    def option_values(self, key: str) -> list[str]:
        """The values of an entry of `config`, which may be one string or a list, as in K3s."""
        value = self.config.get(key, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def option_arguments(self, key: str) -> list[str]:
        """The values of an entry of `config` as arguments with dashes. As in K3s, the entry may omit the dashes."""
        return [f"--{value.removeprefix('--')}" for value in self.option_values(key)]

    def option(self, key: str, default: str) -> str:
        """An entry of `config` as one string. Like K3s, it joins a list with commas."""
        return ",".join(self.option_values(key)) if key in self.config else default

    @property
    def cluster_cidr(self) -> str:
        return self.option("cluster-cidr", "10.42.0.0/16")

    @property
    def service_cidr(self) -> str:
        return self.option("service-cidr", "10.43.0.0/16")

    @property
    def pod_cidr(self) -> str:
        """The pod range of the first node, which the controller manager assigns to the server node."""
        network = ipaddress.ip_network(self.cluster_cidr)
        prefix_length = 24 if network.version == 4 else 64
        return str(next(iter(network.subnets(new_prefix=max(prefix_length, network.prefixlen)))))

    @property
    def api_service(self) -> str:
        """The address of the service `kubernetes`: the first one of the range."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    @property
    def cluster_dns(self) -> str:
        return self.option("cluster-dns", str(ipaddress.ip_network(self.service_cidr)[10]))

    @property
    def ranges(self) -> cluster_ranges.ClusterRanges:
        """The addresses for `cluster_ranges.check_ranges`: as set, or derived from those."""
        known = self.role == "server" or bool({"cluster-cidr", "service-cidr"} & set(self.config))
        return cluster_ranges.ClusterRanges(
            cluster_cidr=self.cluster_cidr if known else None,
            service_cidr=self.service_cidr if known else None,
            cluster_dns=self.option("cluster-dns", "") or None,
            node_ip=self.node_ip,
            advertise_address=self.advertise_address if self.role == "server" else None,
        )

    @property
    def advertise_address(self) -> str:
        return self.option("advertise-address", self.node_ip or STABLE_ADDRESS)
