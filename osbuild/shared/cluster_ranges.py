"""The address ranges of a cluster, checked by the rules that the programs of Kubernetes enforce when they start.

Both the device and `edge-osbuild profile check` use this module, so they report the same errors.
"""

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from osbuild.shared.host_address import Address, host_address_problem, unusable_part
from osbuild.shared.host_address import Network as Range
from osbuild.shared.quoting import quoted

# The controller manager gives each node a range of the second prefix length. It manages at most 2^16 ranges of IPv6
# (Kubernetes, pkg/controller/nodeipam/ipam/cidrset).
POD_PREFIXES = {4: (1, 24), 6: (48, 64)}
# The API server needs 8 service addresses, but the DNS service has the tenth by default. Versions before 1.34 accept at
# most 2^20 (cmd/kube-apiserver/app/options/validation.go).
SERVICE_PREFIXES = {4: (1, 28), 6: (64, 124)}
FEW_SERVICES = {4: (12, 28), 6: (108, 124)}


class RangeError(ValueError):
    """An address or range that Kubernetes rejects. `name` is the setting, `hint` says what to write instead."""

    def __init__(self, name: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.name = name
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class ClusterRanges:
    """The addresses of a cluster as text, one per address family with a comma between two; `None` means not set.

    The two ranges are either both set or both `None`, because an agent node may not know the ranges of its server.
    """

    cluster_cidr: str | None = None
    service_cidr: str | None = None
    cluster_dns: str | None = None
    node_ip: str | None = None
    advertise_address: str | None = None


def check_ranges(ranges: ClusterRanges, *, few_services: bool = False) -> None:
    """Raise `RangeError` for the first address or range that Kubernetes rejects.

    `few_services` says whether the Kubernetes version is older than 1.34.
    """
    node = parse_own_addresses("node-ip", ranges.node_ip)
    advertised = parse_own_addresses("advertise-address", ranges.advertise_address)
    if len(advertised) > 1:
        hint = "write the one of the first family of the services"
        raise RangeError("advertise-address", "found two addresses, expected one", hint)
    if ranges.cluster_cidr is None or ranges.service_cidr is None:
        return
    pods = parse_ranges("cluster-cidr", ranges.cluster_cidr)
    services = parse_ranges("service-cidr", ranges.service_cidr)
    if [network.version for network in pods] != [network.version for network in services]:
        message = (
            f"found the ranges {join_texts(services)} for services and {join_texts(pods)} for pods, expected the same "
            "address families in the same order"
        )
        raise RangeError("service-cidr", message, f"write {' and '.join(f'an IPv{n.version} range' for n in pods)}")
    for network in pods:
        check_range("cluster-cidr", network, POD_PREFIXES)
    for network in services:
        check_range("service-cidr", network, FEW_SERVICES if few_services else SERVICE_PREFIXES)
    for one in pods:
        for other in services:
            if one.version == other.version and one.overlaps(other):
                message = f"found the range {other} for services, which overlaps the range {one} for pods"
                raise RangeError("service-cidr", message, "write a range that nothing else uses")
    if ranges.cluster_dns is not None:
        check_dns(ranges.cluster_dns, services)
    for name, addresses, families in (("node-ip", node, pods), ("advertise-address", advertised, pods[:1])):
        if addresses:
            check_families(name, addresses, families)
        for address in addresses:
            check_outside(name, address, pods, services)


def check_range(name: str, network: Range, limits: dict[int, tuple[int, int]]) -> None:
    """Check the size of a range, and that hosts can have its addresses. `limits` are the prefix lengths by family."""
    check_prefix(name, network, limits[network.version])
    if (part := unusable_part(network)) is not None:
        message = f"found the range {network}, but pods and services cannot have addresses in {part}"
        raise RangeError(name, message, "write a private range that nothing else uses, such as `10.42.0.0/16`")


def check_dns(text: str, services: list[Range]) -> None:
    """Check the addresses of the DNS service: one in each range of services, in their order."""
    addresses = [parse_address("cluster-dns", part) for part in text.split(",")]
    if len(addresses) != len(services):
        message = f"found {join_texts(addresses)} for the DNS service, expected one address in {join_texts(services)}"
        raise RangeError("cluster-dns", message, f"write `{','.join(str(network[10]) for network in services)}`")
    for dns, network in zip(addresses, services, strict=True):
        # The API server assigns neither of the first two addresses, nor the last one of an IPv4 range.
        last = (network[-1],) if network.version == 4 else ()
        if dns not in network or dns in (network[0], network[1], *last):
            message = f"found the address {dns} for the DNS service, expected one in {network}"
            raise RangeError("cluster-dns", message, f"write an address such as `{network[10]}`")


def parse_own_addresses(name: str, text: str | None) -> list[Address]:
    """Addresses of the node itself, at most one per family, with a comma between two."""
    addresses = [parse_own_address(name, part) for part in text.split(",")] if text is not None else []
    if len({address.version for address in addresses}) != len(addresses):
        message = f"found {join_texts(addresses)}, expected one address of each family"
        raise RangeError(name, message, "write one IPv4 address, one IPv6 address, or both with a comma between them")
    return addresses


def parse_own_address(name: str, text: str) -> Address:
    """An address of the node itself that the kubelet accepts (pkg/kubelet/kubelet_node_status.go)."""
    address = parse_address(name, text)
    reason = host_address_problem(address) or ("it is a link-local address" if address.is_link_local else None)
    if reason is not None:
        message = f"found the address {address}, which other hosts cannot reach: {reason}"
        raise RangeError(name, message, "write an address of one of the node's interfaces")
    return address


def check_families(name: str, addresses: list[Address], networks: list[Range]) -> None:
    """Check that a node has one address for each family of the cluster, in the same order."""
    expected = [network.version for network in networks]
    if [address.version for address in addresses] != expected:
        families = " and ".join(f"an IPv{version} address" for version in expected)
        message = f"found {join_texts(addresses)} in a cluster with {join_texts(networks)}, expected {families}"
        hint = "write both in this order, with a comma between them" if len(expected) > 1 else f"write {families}"
        raise RangeError(name, message, f"{hint}, or change `cluster-cidr` and `service-cidr`")


def check_outside(name: str, address: Address, pods: list[Range], services: list[Range]) -> None:
    """Check that the address of a node is outside the ranges of its cluster."""
    for what, networks in (("pods", pods), ("services", services)):
        for reserved in networks:
            if address in reserved:
                hint = f"give the {what} another range in `kubernetes.config`"
                raise RangeError(name, f"found the address {address} in {reserved}, the range of the {what}", hint)


def join_texts(values: Sequence[Address | Range]) -> str:
    return " and ".join(map(str, values))


def parse_ranges(name: str, text: str) -> list[Range]:
    """The range in `text`, or two of different families with a comma between them. Raises `RangeError`."""
    ranges = [parse_range(name, part) for part in text.split(",")]
    if len({network.version for network in ranges}) != len(ranges):
        message = f"found {join_texts(ranges)}, expected one range of each address family"
        raise RangeError(name, message, "write one range, or one of IPv4 and one of IPv6 with a comma between them")
    return ranges


def parse_range(name: str, text: str) -> Range:
    """The single range in `text`, without host bits. Raises `RangeError`."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        hint = "write a range such as `10.42.0.0/16`"
    with contextlib.suppress(ValueError):
        hint = f"write `{ipaddress.ip_network(text, strict=False)}`"
    raise RangeError(name, f"found {quoted(text)}, expected an address range", hint)


def check_prefix(name: str, network: Range, limits: tuple[int, int]) -> None:
    """Check the prefix length of a range. `limits` are the smallest and the largest one."""
    least, most = limits
    if not least <= network.prefixlen <= most:
        message = f"found the range {network}, expected a prefix length from /{least} to /{most}"
        raise RangeError(name, message, f"write `{network.network_address}/{max(least, min(most, network.prefixlen))}`")


def parse_address(name: str, text: str) -> Address:
    """The single IP address in `text`, without a zone. Raises `RangeError`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        hint = "write one IP address, without `/` and prefix length"
        raise RangeError(name, f"found {quoted(text)}, expected an IP address", hint) from None
    if getattr(address, "scope_id", None):
        raise RangeError(
            name, f"found {quoted(text)}, expected an IP address without a zone", "remove `%` and the text after it"
        )
    return address
