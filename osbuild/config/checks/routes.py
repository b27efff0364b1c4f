"""Checks of an interface's gateway and routes."""

import ipaddress
from collections.abc import Callable, Sequence

from osbuild.config.checks.addresses import Static, parse_address, refuse_scope
from osbuild.config.document import quote_text
from osbuild.config.network import Route
from osbuild.shared.errors import Error
from osbuild.shared.host_address import Address, Network, subnet_problem

Where = Callable[..., str]


def check_gateway(text: str, addresses: Sequence[Static], where: str) -> None:
    """Raise `Error` if the default gateway `text` is not another host in a network of the interface's `addresses`."""
    gateway = parse_address(text, "the gateway's IP address", where)
    same = [static for static in addresses if static.version == gateway.version]
    if any(static.ip == gateway for static in same):
        hint = "the gateway is another host: ask who runs the network"
        raise Error(
            f"found the gateway {quote_text(text)}, which is the interface's own address", where=where, hint=hint
        )
    check_subnets(text, gateway, same, where)
    if same and not gateway.is_link_local and not any(gateway in static.network for static in same):
        networks = " or ".join(str(static.network) for static in same)
        hint = "check the prefix length of the address, or write a route with `to: default` and `on_link: true`"
        raise Error(f"found the gateway {quote_text(text)}, expected one in {networks}", where=where, hint=hint)


def check_subnets(text: str, gateway: Address, addresses: Sequence[Static], where: str) -> None:
    """Raise `Error` if the gateway is the network or broadcast address of one of the `addresses`' networks."""
    for static in addresses:
        if reason := subnet_problem(gateway, static.network):
            message = f"found the gateway {quote_text(text)}, expected the address of a host: {reason}"
            raise Error(message, where=where, hint="write the address of another host")


def check_route(route: Route, addresses: Sequence[Static], dhcp: bool, dotted: str, where: Where) -> None:
    """Raise `Error` if the interface with `addresses` has no way to the route's gateway."""
    via = parse_address(route.via, "the gateway's IP address", where(f"{dotted}.via"))
    if route.to != "default":
        network = parse_network(route.to, where(f"{dotted}.to"))
        if network.is_loopback:
            message = f"found the route to {route.to}, the loopback addresses of the node itself"
            raise Error(message, where=where(f"{dotted}.to"), hint="remove it, or write another network")
        if network.version != via.version:
            message = f"found the route to {route.to} via {route.via}, expected addresses of one IP version"
            raise Error(message, where=where(f"{dotted}.via"), hint=f"write an IPv{network.version} address")
    same = [static for static in addresses if static.version == via.version]
    if any(static.ip == via for static in same):
        message = f"found the gateway {quote_text(route.via)}, which is the interface's own address"
        raise Error(message, where=where(f"{dotted}.via"), hint="write the address of another host")
    check_subnets(route.via, via, same, where(f"{dotted}.via"))
    if route.on_link or via.is_link_local or (dhcp and not same):
        return
    if not any(via in static.network for static in same):
        networks = " or ".join(str(static.network) for static in same) or "a network of one of its addresses"
        message = f"found the gateway {quote_text(route.via)}, expected one in {networks}"
        raise Error(message, where=where(f"{dotted}.via"), hint="add `on_link: true` if it is on this link")


def parse_network(text: str, where: str) -> Network:
    message = f"found the route to {quote_text(text)}, expected a network"
    refuse_scope(text, where)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        hint = "write `default`, or a network such as `198.51.100.0/24`"
        raise Error(message, where=where, hint=hint) from error
    if network.network_address != ipaddress.ip_address(text.partition("/")[0]) or "/" not in text:
        raise Error(message, where=where, hint=f"write `{network}`")
    return network
