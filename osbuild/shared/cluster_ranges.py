"""The address ranges of a cluster, checked by the rules that the programs of Kubernetes enforce when they start.

Both the device and `edge-osbuild profile check` use this module, so they report the same errors.
"""

import contextlib
import ipaddress
from dataclasses import dataclass

from osbuild.shared.host_address import Address, host_address_problem, unusable_part
from osbuild.shared.host_address import Network as Range
from osbuild.shared.quoting import LONGEST, printable, quoted

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
    """The addresses of a cluster as text; `None` means not set.

    The two ranges are either both set or both `None`, because an agent node may not know the ranges of its server.
    """

    cluster_cidr: str | None = None
    service_cidr: str | None = None
    cluster_dns: str | None = None
    node_ip: str | None = None
    advertise_address: str | None = None


def check_ranges(ranges: ClusterRanges, *, ipv6: bool = True, few_services: bool = False) -> None:
    """Raise `RangeError` for the first address or range that Kubernetes rejects.

    `ipv6` says whether the distribution can run a cluster with IPv6 addresses, `few_services` whether
    the Kubernetes version is older than 1.34.
    """
    own = [
        (name, parse_own_address(name, text))
        for name, text in (("node-ip", ranges.node_ip), ("advertise-address", ranges.advertise_address))
        if text is not None
    ]
    if ranges.cluster_cidr is None or ranges.service_cidr is None:
        return
    pods, services = parse_range("cluster-cidr", ranges.cluster_cidr), parse_range("service-cidr", ranges.service_cidr)
    for name, network in (("cluster-cidr", pods), ("service-cidr", services)):
        if network.version == 6 and not ipv6:
            hint = "write an IPv4 range, or use `distribution: k3s` without `if_unavailable: upstream`"
            raise RangeError(name, f"found the range {network}, but the upstream distribution supports IPv4 only", hint)
    if pods.version != services.version:
        message = f"found the range {services} for services and {pods} for pods, expected one address family"
        raise RangeError("service-cidr", message, f"write an IPv{pods.version} range; dual stack is not supported")
    check_prefix("cluster-cidr", pods, POD_PREFIXES[pods.version])
    check_prefix("service-cidr", services, (FEW_SERVICES if few_services else SERVICE_PREFIXES)[services.version])
    for name, network in (("cluster-cidr", pods), ("service-cidr", services)):
        if (part := unusable_part(network)) is not None:
            message = f"found the range {network}, but pods and services cannot have addresses in {part}"
            raise RangeError(name, message, "write a private range that nothing else uses, such as `10.42.0.0/16`")
    if pods.overlaps(services):
        message = f"found the range {services} for services, which overlaps the range {pods} for pods"
        raise RangeError("service-cidr", message, "write a range that nothing else uses")
    if ranges.cluster_dns is not None:
        dns = parse_address("cluster-dns", ranges.cluster_dns)
        # The API server assigns neither of the first two addresses, nor the last one of an IPv4 range.
        last = (services[-1],) if services.version == 4 else ()
        if dns not in services or dns in (services[0], services[1], *last):
            message = f"found the address {dns} for the DNS service, expected one in {services}"
            raise RangeError("cluster-dns", message, f"write an address such as `{services[10]}`")
    for name, address in own:
        check_family(name, address, pods, services)


def parse_own_address(name: str, text: str) -> Address:
    """An address of the node itself that the kubelet accepts (pkg/kubelet/kubelet_node_status.go)."""
    address = parse_address(name, text)
    reason = host_address_problem(address) or ("it is a link-local address" if address.is_link_local else None)
    if reason is not None:
        message = f"found the address {address}, which other hosts cannot reach: {reason}"
        raise RangeError(name, message, "write an address of one of the node's interfaces")
    return address


def check_family(name: str, address: Address, pods: Range, services: Range) -> None:
    """Check that the address of a node has the address family of the cluster and is outside its ranges."""
    if address.version != pods.version:
        message = f"found the IPv{address.version} address {address} in a cluster with the range {pods}"
        hint = f"write an IPv{pods.version} address, or set `cluster-cidr` and `service-cidr` to IPv{address.version}"
        raise RangeError(name, message, f"{hint}; dual stack is not supported")
    for what, reserved in (("pods", pods), ("services", services)):
        if address in reserved:
            hint = f"give the {what} another range in `kubernetes.config`"
            raise RangeError(name, f"found the address {address} in {reserved}, the range of the {what}", hint)


def parse_range(name: str, text: str) -> Range:
    """The single range in `text`, without host bits. Raises `RangeError`."""
    if "," in text:
        shown = printable(text, LONGEST)
        message = f"found more than one range ({shown}); dual stack is not supported: a node has one stable address"
        raise RangeError(name, message, "write one range")
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
        if "," in text:
            hint = "write one IP address: dual stack is not supported"
        raise RangeError(name, f"found {quoted(text)}, expected an IP address", hint) from None
    if getattr(address, "scope_id", None):
        raise RangeError(
            name, f"found {quoted(text)}, expected an IP address without a zone", "remove `%` and the text after it"
        )
    return address
