"""Values of version 1 of network-config, converted to version 2."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.network.document import Position, Value
from osbuild.shared.quoting import quoted

BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
PREFIX = {4: 24, 6: 64}  # the default of cloud-init for an address without netmask


def listed(value: Any) -> list[Any]:
    """The items of a list, or of a text that separates them by blanks or commas."""
    if value is None:
        return []
    return value.replace(",", " ").split() if isinstance(value, str) else value if isinstance(value, list) else [value]


def truth(value: Any) -> bool:
    """The boolean of `true`, `1`, `on` or `yes` in any case; everything else is False."""
    return str(value).lower() in ("true", "1", "on", "yes")


def address(item: Value, entry: Mapping[str, Any]) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """The address of a static subnet. Raises `Problem`."""
    text = str(entry.get("address") or entry.get("ip_address"))
    length = entry.get("netmask") if entry.get("netmask") is not None else entry.get("prefix")
    try:
        if "/" in text:
            return ipaddress.ip_interface(text)
        return ipaddress.ip_interface(f"{text}/{prefix_length(length, ipaddress.ip_address(text).version)}")
    except ValueError:
        raise Problem(
            f"{quoted(text)} is not an address with netmask {quoted(length)}", where=str(item.position)
        ) from None


def prefix_length(netmask: Any, version: int) -> int:
    """The prefix length of a netmask or prefix length; the default of cloud-init without one. Raises `ValueError`."""
    if netmask in (None, ""):
        return PREFIX[version]
    if ":" in str(netmask):
        return int(ipaddress.IPv6Address(str(netmask))).bit_count()
    return ipaddress.ip_network(f"0.0.0.0/{netmask}").prefixlen if "." in str(netmask) else int(str(netmask))


def default_route(item: Value, gateway: str, address: Any, metric: Any) -> dict[str, Any]:
    """The default route through the gateway of a subnet. Raises `Problem`."""
    try:
        inside = ipaddress.ip_address(gateway) in address.network
    except ValueError:
        raise Problem(f"{quoted(gateway)} is not an address", where=str(item.position)) from None
    route: dict[str, Any] = {"to": "default", "via": gateway}
    if not inside and not ipaddress.ip_address(gateway).is_link_local:
        route["on-link"] = True
    return route if metric is None else {**route, "metric": metric}


def route(item: Value, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A route. Raises `Problem`."""
    text = str(entry.get("destination") or entry.get("network"))
    length = entry.get("netmask") if entry.get("netmask") is not None else entry.get("prefix")
    try:
        via = str(ipaddress.ip_address(str(entry.get("gateway"))))
        if text == "default":
            text = "::/0" if ":" in via else "0.0.0.0/0"
        if "/" not in text:
            text = f"{text}/{prefix_length(length, ipaddress.ip_address(text).version)}"
        target = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        hint = "write `destination` with a netmask or prefix length, and `gateway`"
        raise Problem("is not a route", where=str(item.position), hint=hint) from None
    metric = {} if entry.get("metric") is None else {"metric": entry["metric"]}
    return {"to": target, "via": via, **metric}


def within(gateway: str, network: Any) -> bool:
    """Whether a gateway is in a network."""
    return ipaddress.ip_address(gateway) in network


def resolving_interfaces(interfaces: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The interfaces that get the global name servers: static ones without name servers, or else those with DHCP."""
    static = [name for name, entry in interfaces.items() if "addresses" in entry and "nameservers" not in entry]
    return static or [name for name, entry in interfaces.items() if "dhcp4" in entry or "dhcp6" in entry]


def parameter(name: str, value: Value, position: Position) -> Any:
    """The value of a parameter of a bond or bridge. `name` is its name in version 2. Raises `Problem`."""
    plain = value.plain()
    if name == "mode" and str(plain).isdecimal() and int(plain) < len(BOND_MODES):
        return BOND_MODES[int(plain)]
    if name == "lacp-rate" and str(plain) in ("0", "1"):
        return ("slow", "fast")[int(plain)]
    if name == "arp-ip-targets":
        return listed(plain)
    if name in ("stp", "all-members-active"):
        return truth(plain)
    if name in ("path-cost", "port-priority"):
        pairs = [str(pair).split() for pair in (plain if isinstance(plain, list) else [plain])]
        if any(len(pair) != 2 or not pair[1].isdecimal() for pair in pairs):
            raise Problem("expected a port and a number", where=str(position), hint="write `[eth0 50]`")
        return {port: int(number) for port, number in pairs}
    return plain
