"""Version 1 of network-config (cloud-init documentation, "Networking config Version 1"), converted to version 2.

cloud-init's own conversion drops routes, name servers of an interface and unknown parameters without a word; here each
key is converted, or named in a `Problem`.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.network.document import Position, Value, place

BOND = {
    "mode": "mode", "miimon": "mii-monitor-interval", "min-links": "min-links", "ad-select": "ad-select",
    "lacp-rate": "lacp-rate", "xmit-hash-policy": "transmit-hash-policy", "all-slaves-active": "all-members-active",
    "arp-interval": "arp-interval", "arp-ip-target": "arp-ip-targets", "arp-validate": "arp-validate",
    "arp-all-targets": "arp-all-targets", "updelay": "up-delay", "downdelay": "down-delay",
    "fail-over-mac": "fail-over-mac-policy", "num-grat-arp": "gratuitous-arp", "primary": "primary",
    "primary-reselect": "primary-reselect-policy", "resend-igmp": "resend-igmp",
    "packets-per-slave": "packets-per-member", "lp-interval": "learn-packet-interval",
}  # fmt: skip
BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
BRIDGE = {
    "ageing": "ageing-time", "bridgeprio": "priority", "fd": "forward-delay", "hello": "hello-time",
    "maxage": "max-age", "pathcost": "path-cost", "portprio": "port-priority", "stp": "stp",
}  # fmt: skip
# How long scripts of ifupdown wait: networkd needs no waiting.
BRIDGE_WAITS = ("gcint", "maxwait", "waitport")
COMMON = ("type", "name", "config_id", "mac_address", "mtu", "subnets", "accept-ra", "wakeonlan", "optional", "params")
OWN = {
    "physical": (), "loopback": (), "bond": ("bond_interfaces",), "bridge": ("bridge_interfaces",),
    "vlan": ("vlan_link", "vlan_id"),
}  # fmt: skip
SECTIONS = {"physical": "ethernets", "loopback": "ethernets", "bond": "bonds", "bridge": "bridges", "vlan": "vlans"}
SUBNET = (
    "type", "address", "netmask", "prefix", "broadcast", "gateway", "dns_nameservers", "dns_search", "routes", "mtu",
    "control", "metric",
)  # fmt: skip
DHCP = {
    "dhcp": {"dhcp4": True}, "dhcp4": {"dhcp4": True}, "dhcp6": {"dhcp6": True}, "ipv6_slaac": {"accept-ra": True},
    "ipv6_dhcpv6-stateless": {"dhcp6": True}, "ipv6_dhcpv6-stateful": {"dhcp6": True},
}  # fmt: skip


def convert(document: Value) -> Value:
    """The same configuration in version 2. Raises `Problem` with the position of what can't be converted."""
    config = document.get("config")
    if config is None or not isinstance(config.data, tuple):
        raise Problem("version 1 has a list `config`", where=str((config or document).position))
    conversion = _Conversion()
    for item in config.data:
        conversion.add(item)
    return conversion.result(document.position)


class _Conversion:
    def __init__(self) -> None:
        self.sections: dict[str, dict[str, tuple[Position, dict[str, Any]]]] = {}
        self.networks: list[tuple[str, Any]] = []  # (interface, network of a static address)
        self.servers: list[tuple[Value, str | None, dict[str, list[Any]]]] = []
        self.routes: list[tuple[Value, dict[str, Any]]] = []

    def add(self, item: Value) -> None:
        """Convert one entry of `config`."""
        entry = item.plain()
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "nameserver":
            _known(item, ("type", "address", "search", "interface"))
            names = {"addresses": _list(entry.get("address")), "search": _list(entry.get("search"))}
            self.servers.append((item, entry.get("interface"), names))
        elif kind == "route":
            _known(item, ("type", "destination", "network", "netmask", "prefix", "gateway", "metric"))
            self.routes.append((item, _route(item)))
        elif kind in SECTIONS:
            self.interface(item, entry, str(kind))
        else:
            hint = f"known types: {', '.join([*SECTIONS, 'nameserver', 'route'])}"
            raise Problem(f"an entry of the type `{kind}` can't be configured", where=str(item.position), hint=hint)

    def interface(self, item: Value, entry: Mapping[str, Any], kind: str) -> None:
        _known(item, (*COMMON, *OWN[kind]))
        name = "lo" if kind == "loopback" else entry.get("name")
        missing = [key for key in ("name", *OWN[kind]) if entry.get(key) in (None, "")]
        if missing and kind != "loopback":
            raise Problem(f"a {kind} needs `{missing[0]}`", where=str(item.position))
        made: dict[str, Any] = {}
        if address := entry.get("mac_address"):
            made |= (
                {"match": {"macaddress": str(address).lower()}, "set-name": name}
                if kind == "physical"
                else {"macaddress": str(address).lower()}
            )
        for key in ("mtu", "accept-ra", "wakeonlan", "optional"):
            if entry.get(key) is not None:
                made[key] = entry[key] if key == "mtu" else _truth(entry[key])
        if kind in ("bond", "bridge"):
            made["interfaces"] = _list(entry[f"{kind}_interfaces"])
        if kind == "vlan":
            made |= {"id": entry["vlan_id"], "link": entry["vlan_link"]}
        if params := item.get("params"):
            made |= _parameters(params, kind)
        for subnet in getattr(item.get("subnets"), "data", None) or ():
            self.subnet(subnet, str(name), made)
        if kind == "loopback" and not made:
            return
        section = self.sections.setdefault(SECTIONS[kind], {})
        if name in section:
            raise Problem(f"`{name}` is there twice", where=str(item.position))
        section[str(name)] = (item.position, made)

    def subnet(self, item: Value, name: str, made: dict[str, Any]) -> None:
        _known(item, SUBNET)
        entry = item.plain()
        kind = str(entry.get("type"))
        if kind in DHCP:
            made |= DHCP[kind]
        elif kind in ("static", "static6"):
            address = _address(item, entry)
            made.setdefault("addresses", []).append(str(address))
            self.networks.append((name, address.network))
            if gateway := entry.get("gateway"):
                made.setdefault("routes", []).append(_default(item, str(gateway), address, entry.get("metric")))
        elif kind != "manual":
            raise Problem(f"a subnet of the type `{kind}` can't be configured", where=str(item.position))
        if entry.get("control") == "manual":
            made["activation-mode"] = "manual"
        if entry.get("mtu") is not None:
            made["ipv6-mtu" if ":" in str(entry.get("address")) else "mtu"] = entry["mtu"]
        for key, target in (("dns_nameservers", "addresses"), ("dns_search", "search")):
            if entry.get(key):
                made.setdefault("nameservers", {}).setdefault(target, []).extend(_list(entry[key]))
        for route in getattr(item.get("routes"), "data", None) or ():
            _known(route, ("network", "destination", "netmask", "prefix", "gateway", "metric"))
            made.setdefault("routes", []).append(_route(route))

    def result(self, position: Position) -> Value:
        """Everything, after routes and name servers were given to interfaces."""
        every = {name: made for section in self.sections.values() for name, (_, made) in section.items()}
        for item, route in self.routes:
            owners = [name for name, network in self.networks if _within(route["via"], network)]
            if not owners:
                hint = "write it in `routes` of the subnet that it belongs to"
                raise Problem(f"no interface has the network of {route['via']}", where=str(item.position), hint=hint)
            every[owners[0]].setdefault("routes", []).append(route)
        for item, interface, names in self.servers:
            if interface is not None and interface not in every:
                raise Problem(f"there is no interface `{interface}`", where=str(item.position))
            given = {key: value for key, value in names.items() if value}
            targets = [interface] if interface is not None else _resolving(every)
            for name in targets:
                for key, value in given.items():
                    every[name].setdefault("nameservers", {}).setdefault(key, []).extend(value)
        version = (position, Value(2, position))
        sections = {
            section: (position, Value({name: (at, place(made, at)) for name, (at, made) in entries.items()}, position))
            for section, entries in self.sections.items()
        }
        return Value({"version": version, **sections}, position)


def _known(item: Value, names: tuple[str, ...]) -> None:
    if not isinstance(item.data, dict):
        raise Problem("is not a mapping", where=str(item.position))
    for name, (position, _) in item.data.items():
        if name not in names:
            raise Problem(f"unknown key `{name}`", where=str(position), hint=f"known keys: {', '.join(names)}")


def _list(value: Any) -> list[Any]:
    """A list, or a text with blanks or commas between its items."""
    if value is None:
        return []
    return value.replace(",", " ").split() if isinstance(value, str) else value if isinstance(value, list) else [value]


def _truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "on", "yes")


def _address(item: Value, entry: Mapping[str, Any]) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    text = str(entry.get("address"))
    length = entry.get("netmask") if entry.get("netmask") is not None else entry.get("prefix")
    try:
        if length is None or "/" in text:
            return ipaddress.ip_interface(text)
        return ipaddress.ip_interface(f"{text}/{_length(length)}")
    except ValueError:
        raise Problem(f"`{text}` is not an address with netmask `{length}`", where=str(item.position)) from None


def _length(netmask: Any) -> int:
    """Prefix length of a netmask, or of a prefix length. Raises `ValueError`."""
    if ":" in str(netmask):
        return int(ipaddress.IPv6Address(netmask)).bit_count()
    return ipaddress.ip_network(f"0.0.0.0/{netmask}").prefixlen if "." in str(netmask) else int(netmask)


def _default(item: Value, gateway: str, address: Any, metric: Any) -> dict[str, Any]:
    try:
        inside = ipaddress.ip_address(gateway) in address.network
    except ValueError:
        raise Problem(f"`{gateway}` is not an address", where=str(item.position)) from None
    route: dict[str, Any] = {"to": "default", "via": gateway}
    if not inside and not ipaddress.ip_address(gateway).is_link_local:
        route["on-link"] = True
    return route if metric is None else {**route, "metric": metric}


def _route(item: Value) -> dict[str, Any]:
    entry = item.plain()
    text = str(entry.get("destination") or entry.get("network"))
    length = entry.get("netmask") if entry.get("netmask") is not None else entry.get("prefix")
    try:
        via = str(ipaddress.ip_address(str(entry.get("gateway"))))
        if text == "default":
            text = "::/0" if ":" in via else "0.0.0.0/0"
        if length is not None and "/" not in text:
            text = f"{text}/{_length(length)}"
        target = str(ipaddress.ip_network(text))
    except ValueError:
        hint = "a route has `destination` with a netmask or prefix length, and `gateway`"
        raise Problem("is not a route", where=str(item.position), hint=hint) from None
    metric = {} if entry.get("metric") is None else {"metric": entry["metric"]}
    return {"to": target, "via": via, **metric}


def _within(gateway: str, network: Any) -> bool:
    return ipaddress.ip_address(gateway) in network


def _resolving(every: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The interfaces that name servers of no interface are for: static ones without their own, or else every one."""
    static = [name for name, made in every.items() if "addresses" in made and "nameservers" not in made]
    return static or [name for name, made in every.items() if "dhcp4" in made or "dhcp6" in made]


def _parameters(params: Value, kind: str) -> dict[str, Any]:
    table = {"bond": BOND, "bridge": BRIDGE}.get(kind, {})
    made: dict[str, Any] = {}
    for name, (position, value) in (params.data if isinstance(params.data, dict) else {}).items():
        short = name.replace("_", "-").removeprefix(f"{kind}-")
        if kind == "bridge" and short in BRIDGE_WAITS:
            continue
        if short not in table:
            raise Problem(f"unknown parameter `{name}` of a {kind}", where=str(position))
        made[table[short]] = _parameter(table[short], value, position)
    return {"parameters": made} if made else {}


def _parameter(name: str, value: Value, position: Position) -> Any:
    plain = value.plain()
    if name == "mode" and str(plain).isdecimal() and int(plain) < len(BOND_MODES):
        return BOND_MODES[int(plain)]
    if name == "lacp-rate" and str(plain) in ("0", "1"):
        return ("slow", "fast")[int(plain)]
    if name == "arp-ip-targets":
        return _list(plain)
    if name in ("stp", "all-members-active"):
        return _truth(plain)
    if name in ("path-cost", "port-priority"):
        pairs = [str(pair).split() for pair in (plain if isinstance(plain, list) else [plain])]
        if any(len(pair) != 2 or not pair[1].isdecimal() for pair in pairs):
            raise Problem("expected a port and a number", where=str(position), hint="write `[eth0 50]`")
        return {port: int(number) for port, number in pairs}
    return plain
