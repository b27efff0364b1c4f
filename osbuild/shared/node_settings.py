"""The settings of a node: the contract between the seed, which the host writes, and the edge agent, which reads it.

After a rollback, an older slot boots with a newer seed. Therefore a key never changes its type or meaning. A new
setting gets a new key and raises `FORMAT`. The agent keeps and reports unknown keys.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from osbuild.shared import cluster_ranges
from osbuild.shared.operator_requests import DEFAULT_KINDS

FORMAT = 3  # the format that this version writes and supports; a seed without a format has format 1
# Files of the seed. The image has Kubernetes settings too, which the seed overrides key by key.
KUBERNETES_FILE = "/etc/edge-osbuild/kubernetes.json"
AGENT_FILE = "/etc/edge-osbuild/agent.json"
PROXY_FILE = "/etc/edge-osbuild/proxy.env"

STABLE_ADDRESS = "203.0.113.254"  # of the interface edge0, which always exists (TEST-NET-3, RFC 5737)
STABLE_ADDRESS6 = "2001:db8:203:113::254"  # another of edge0, for pods without IPv4 (RFC 3849)
API_PORT = 6443
POD_SECURITY_LEVELS = ("privileged", "baseline", "restricted")  # Kubernetes' Pod Security Standards


@dataclass(frozen=True, kw_only=True)
class KubernetesSeed:
    """`kubernetes.json` of a seed. The keys are those of `NodeSettings`."""

    labels: Mapping[str, str]
    taints: tuple[str, ...]
    config: Mapping[str, Any]
    token: str | None = None
    agent_token: str | None = None
    server: str | None = None
    node_ip: str | None = None
    pod_security: str | None = None
    format: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AgentSeed:
    """`agent.json` of a seed: the URL of the update server, and whether a boot may be healthy without it.

    `authority` is the server's certificate authority as PEM, `enrolment` the token with which the node enrols, `token`
    its target token for a server at which nodes do not enrol, `window` when it installs updates that may wait
    (`maintenance_window`). `requests` are the kinds of requests that operators may make. `attributes` and `facts`
    are reported to the server (`device_attributes`).
    """

    node: str
    server: str | None
    offline: bool
    authority: str | None = None
    enrolment: str | None = None
    token: str | None = None
    window: str | None = None
    requests: tuple[str, ...] = DEFAULT_KINDS
    attributes: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    format: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


def unknown_settings(
    seed: Mapping[str, Any], *kinds: "type[KubernetesSeed] | type[AgentSeed] | type[NodeSettings]"
) -> list[str]:
    """One sentence per setting of a seed that this version does not support: that is a field of none of `kinds`."""
    known = {item.name for kind in kinds for item in fields(kind)} - {"extra"}
    problems = [
        f"the setting `{name}` has no effect, because this version does not know it" for name in seed.keys() - known
    ]
    seed_format = seed.get("format")
    if isinstance(seed_format, int) and seed_format > FORMAT:
        problems.append(f"the settings have the format {seed_format}, but this version supports {FORMAT}")
    return sorted(problems)


@dataclass(frozen=True)
class NodeSettings:
    """The block `kubernetes` of the profile (osbuild/config/profile.py), with secrets instead of references to them."""

    role: str = "none"
    token: str | None = None
    agent_token: str | None = None
    server: str | None = None
    node_ip: str | None = None
    disable: tuple[str, ...] = ()
    load_balancer: bool = False
    helm: bool = False
    ingress: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    pod_security: str = "privileged"
    node_name: str = "localhost"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def join_token(self) -> str | None:
        """The token with which agent nodes join; None if they may not."""
        return self.agent_token or self.token

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

    def flag(self, key: str, *, default: bool = False) -> bool:
        """An entry of `config` that is true or false, like K3s as a boolean or as text."""
        return self.option(key, str(default)).lower() in ("true", "1", "t")

    @property
    def has_servers(self) -> bool:
        """Whether other servers may join the cluster of this server node."""
        shared = self.flag("cluster-init") or "datastore-endpoint" in self.config
        return self.role == "server" and (shared or bool(self.server))

    @property
    def uses_etcd(self) -> bool:
        """Whether this server has a member of an etcd cluster (embedded etcd)."""
        return self.has_servers and "datastore-endpoint" not in self.config

    @property
    def cluster_cidr(self) -> str:
        return self.option("cluster-cidr", "10.42.0.0/16")

    @property
    def service_cidr(self) -> str:
        return self.option("service-cidr", "10.43.0.0/16")

    @property
    def pod_cidrs(self) -> list[str]:
        """The pod ranges of the first node, which the controller manager assigns to the server node: one per family."""
        ranges = []
        for network in map(ipaddress.ip_network, self.cluster_cidr.split(",")):
            prefix_length = 24 if network.version == 4 else 64
            ranges.append(str(next(iter(network.subnets(new_prefix=max(prefix_length, network.prefixlen))))))
        return ranges

    @property
    def api_services(self) -> list[str]:
        """The addresses of the service `kubernetes`: the first one of each range."""
        return [str(ipaddress.ip_network(cidr)[1]) for cidr in self.service_cidr.split(",")]

    @property
    def cluster_dns(self) -> list[str]:
        """The addresses of the DNS service, one per range of services."""
        if "cluster-dns" in self.config:
            return self.option("cluster-dns", "").split(",")
        return [str(ipaddress.ip_network(cidr)[10]) for cidr in self.service_cidr.split(",")]

    @property
    def node_addresses(self) -> list[str]:
        """The configured addresses at which other nodes reach this one: at most one per family."""
        return self.node_ip.split(",") if self.node_ip else []

    @property
    def external_addresses(self) -> list[str]:
        """The addresses at which nodes in other networks reach this one (K3s' `node-external-ip`)."""
        text = self.option("node-external-ip", "")
        return text.split(",") if text else []

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
        """The address of the API server in the cluster, of the first family of the services."""
        return self.option("advertise-address", next(iter(self.node_addresses), STABLE_ADDRESS))
