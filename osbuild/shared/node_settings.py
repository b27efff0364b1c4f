"""What a node is in its cluster: the settings that image and seed give and the edge agent reads."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from osbuild.shared import cluster_ranges

STABLE_ADDRESS = "203.0.113.254"  # of the interface edge0 (TEST-NET-3, RFC 5737), there whatever the network does
API_PORT = 6443


@dataclass(frozen=True)
class NodeSettings:
    """The profile's `kubernetes` block (osbuild/config/profile.py), with secrets in place of references to them."""

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
        """An entry of `config` that may be one string or a list of them, as in K3s."""
        value = self.config.get(key, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def option_arguments(self, key: str) -> list[str]:
        """An entry of `config` with arguments, given without dashes as in K3s."""
        return [f"--{word.removeprefix('--')}" for word in self.option_values(key)]

    def option(self, key: str, default: str) -> str:
        """An entry of `config` that is one string. K3s joins a list with commas."""
        return ",".join(self.option_values(key)) if key in self.config else default

    @property
    def cluster_cidr(self) -> str:
        return self.option("cluster-cidr", "10.42.0.0/16")

    @property
    def service_cidr(self) -> str:
        return self.option("service-cidr", "10.43.0.0/16")

    @property
    def pod_cidr(self) -> str:
        """The first node's part of the cluster's range: what the controller manager gives the server node."""
        network = ipaddress.ip_network(self.cluster_cidr)
        wanted = 24 if network.version == 4 else 64
        return str(next(iter(network.subnets(new_prefix=max(wanted, network.prefixlen)))))

    @property
    def api_service(self) -> str:
        """The address of the service `kubernetes`: the first of the range."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    @property
    def cluster_dns(self) -> str:
        return self.option("cluster-dns", str(ipaddress.ip_network(self.service_cidr)[10]))

    @property
    def ranges(self) -> cluster_ranges.ClusterRanges:
        """The addresses that were given or follow from them, for `ranges.check_ranges`."""
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
