"""Version 1 of network-config (cloud-init documentation, "Networking config Version 1"), converted to version 2.

cloud-init's own conversion silently drops routes, name servers of an interface and unknown parameters. Here each key is
converted or reported in a `Problem`. Only what cloud-init rejects too is an error.
"""

from collections.abc import Mapping
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.network import legacyvalues as values
from osbuild.agent.network.document import Position, Value, value_at
from osbuild.shared.quoting import quoted

BOND = {
    "mode": "mode", "miimon": "mii-monitor-interval", "min-links": "min-links", "ad-select": "ad-select",
    "lacp-rate": "lacp-rate", "xmit-hash-policy": "transmit-hash-policy", "all-slaves-active": "all-members-active",
    "arp-interval": "arp-interval", "arp-ip-target": "arp-ip-targets", "arp-validate": "arp-validate",
    "arp-all-targets": "arp-all-targets", "updelay": "up-delay", "downdelay": "down-delay",
    "fail-over-mac": "fail-over-mac-policy", "num-grat-arp": "gratuitous-arp", "primary": "primary",
    "primary-reselect": "primary-reselect-policy", "resend-igmp": "resend-igmp",
    "packets-per-slave": "packets-per-member", "lp-interval": "learn-packet-interval",
}  # fmt: skip
BRIDGE = {
    "ageing": "ageing-time", "bridgeprio": "priority", "fd": "forward-delay", "hello": "hello-time",
    "maxage": "max-age", "pathcost": "path-cost", "portprio": "port-priority", "stp": "stp",
}  # fmt: skip
# Waiting times for scripts of ifupdown; systemd-networkd does not need them.
BRIDGE_WAITS = ("gcint", "maxwait", "waitport")
COMMON = (
    "id", "type", "name", "config_id", "mac_address", "mtu", "subnets", "accept-ra", "wakeonlan", "optional", "params",
)  # fmt: skip
OWN = {
    "physical": (), "loopback": (), "bond": ("bond_interfaces",), "bridge": ("bridge_interfaces",),
    "vlan": ("vlan_link", "vlan_id"),
}  # fmt: skip
SECTIONS = {"physical": "ethernets", "loopback": "ethernets", "bond": "bonds", "bridge": "bridges", "vlan": "vlans"}
SUBNET = (
    "type", "address", "ip_address", "netmask", "prefix", "broadcast", "gateway", "dns_nameservers", "dns_search",
    "routes", "mtu", "control", "metric",
)  # fmt: skip
DHCP = {
    "dhcp": {"dhcp4": True}, "dhcp4": {"dhcp4": True}, "dhcp6": {"dhcp6": True}, "ipv6_slaac": {"accept-ra": True},
    "ipv6_dhcpv6-stateless": {"dhcp6": True}, "ipv6_dhcpv6-stateful": {"dhcp6": True},
}  # fmt: skip
ROUTE = ("network", "destination", "netmask", "prefix", "gateway", "metric")


def convert_version_1(document: Value) -> tuple[Value, list[Problem]]:
    """The same configuration in version 2, and a problem for each entry without effect.

    Raises `Problem` with a position for an entry that cannot be converted.
    """
    config = document.get("config")
    if config is None or not isinstance(config.data, tuple):
        raise Problem("version 1 needs a list `config`", where=str((config or document).position))
    conversion = _Conversion()
    for item in config.data:
        conversion.add(item)
    return conversion.result(document.position), conversion.problems


class _Conversion:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.sections: dict[str, dict[str, tuple[Position, dict[str, Any]]]] = {}
        self.networks: list[tuple[str, Any]] = []  # (interface, network of a static address)
        self.servers: list[tuple[Value, str | None, dict[str, list[Any]]]] = []
        self.routes: list[tuple[Value, dict[str, Any]]] = []

    def note(self, message: str, position: Position, hint: str | None = None) -> None:
        """Report an entry without effect."""
        self.problems.append(Problem(message, where=str(position), hint=hint))

    def check(self, item: Value, names: tuple[str, ...]) -> dict[str, Any]:
        """The entries of a mapping. Unknown names are reported. Raises `Problem` if it is not a mapping."""
        if not isinstance(item.data, dict):
            raise Problem("is not a mapping", where=str(item.position))
        for name, (position, _) in item.data.items():
            if name not in names:
                self.note(
                    f"unknown key {quoted(name)}, which has no effect", position, f"known keys: {', '.join(names)}"
                )
        return {name: value.plain() for name, (_, value) in item.data.items()}

    def add(self, item: Value) -> None:
        """Convert one entry of `config`."""
        stated_type = getattr(item.get("type"), "data", None)
        kind = stated_type if isinstance(stated_type, str) else ""
        if kind == "nameserver":
            entry = self.check(item, ("id", "type", "address", "search", "interface"))
            names = {"addresses": values.listed(entry.get("address")), "search": values.listed(entry.get("search"))}
            self.servers.append((item, entry.get("interface"), names))
        elif kind == "route":
            self.routes.append((item, values.route(item, self.check(item, ("id", "type", *ROUTE)))))
        elif kind == "infiniband":
            self.note(
                "an entry of the type `infiniband` has no effect", item.position, "write the configuration in version 2"
            )
        elif kind in SECTIONS:
            self.interface(item, str(kind))
        else:
            hint = f"known types: {', '.join([*SECTIONS, 'nameserver', 'route'])}"
            raise Problem(f"an entry of the type {quoted(kind)} is not supported", where=str(item.position), hint=hint)

    def interface(self, item: Value, kind: str) -> None:
        entry = self.check(item, (*COMMON, *OWN[kind]))
        name = "lo" if kind == "loopback" else entry.get("name")
        missing = [key for key in ("name", *OWN[kind]) if entry.get(key) in (None, "")]
        if missing and kind != "loopback":
            self.note(f"a {kind} needs `{missing[0]}` and has no effect without it", item.position)
            return
        converted: dict[str, Any] = {}
        if address := entry.get("mac_address"):
            converted |= (
                {"match": {"macaddress": str(address).lower()}, "set-name": name}
                if kind == "physical"
                else {"macaddress": str(address).lower()}
            )
        for key in ("mtu", "accept-ra", "wakeonlan", "optional"):
            if entry.get(key) is not None:
                converted[key] = entry[key] if key == "mtu" else values.truth(entry[key])
        if kind in ("bond", "bridge"):
            converted["interfaces"] = values.listed(entry[f"{kind}_interfaces"])
        if kind == "vlan":
            converted |= {"id": entry["vlan_id"], "link": entry["vlan_link"]}
        if params := item.get("params"):
            converted |= self.parameters(params, kind)
        for subnet in items(item.get("subnets")):
            self.subnet(subnet, str(name), converted)
        if kind == "loopback" and not converted:
            return
        if any(str(name) in section for section in self.sections.values()):
            self.note(f"{quoted(name)} appears twice; only the last one has an effect", item.position)
            self.sections = {key: {other: old for other, old in section.items() if other != name}
                             for key, section in self.sections.items()}  # fmt: skip
        self.sections.setdefault(SECTIONS[kind], {})[str(name)] = (item.position, converted)

    def subnet(self, item: Value, name: str, converted: dict[str, Any]) -> None:
        entry = self.check(item, SUBNET)
        kind = str(entry.get("type"))
        if kind in DHCP:
            converted |= DHCP[kind]
            if entry.get("metric") is not None:
                converted |= {
                    f"{key}-overrides": {"route-metric": entry["metric"]} for key in DHCP[kind] if key in converted
                }
        elif kind in ("static", "static6"):
            address = values.address(item, entry)
            converted.setdefault("addresses", []).append(str(address))
            self.networks.append((name, address.network))
            if gateway := entry.get("gateway"):
                converted.setdefault("routes", []).append(
                    values.default_route(item, str(gateway), address, entry.get("metric"))
                )
        elif kind != "manual":
            self.note(f"a subnet of the type {quoted(kind)} has no effect", item.position)
        if entry.get("control") == "manual":
            converted["activation-mode"] = "manual"
        if entry.get("mtu") is not None:
            key = "ipv6-mtu" if ":" in str(entry.get("address")) else "mtu"
            if key in converted and converted[key] != entry["mtu"]:
                self.note(
                    f"the MTU {quoted(converted[key])} of {quoted(name)} has no effect, its subnet has another",
                    item.position,
                )
            converted[key] = entry["mtu"]
        for key, target in (("dns_nameservers", "addresses"), ("dns_search", "search")):
            if entry.get(key):
                converted.setdefault("nameservers", {}).setdefault(target, []).extend(values.listed(entry[key]))
        for listed in items(item.get("routes")):
            converted.setdefault("routes", []).append(values.route(listed, self.check(listed, ROUTE)))

    def parameters(self, params: Value, kind: str) -> dict[str, Any]:
        """The parameters of a bond or bridge. Unknown ones are reported."""
        table = {"bond": BOND, "bridge": BRIDGE}.get(kind, {})
        converted: dict[str, Any] = {}
        for name, (position, value) in (params.data if isinstance(params.data, dict) else {}).items():
            short = name.replace("_", "-").removeprefix(f"{kind}-")
            if kind == "bridge" and short in BRIDGE_WAITS:
                continue
            if short in table:
                converted[table[short]] = values.parameter(table[short], value, position)
            else:
                self.note(f"unknown parameter {quoted(name)} of a {kind}, which has no effect", position)
        return {"parameters": converted} if converted else {}

    def result(self, position: Position) -> Value:
        """The configuration in version 2. Routes and name servers are assigned to interfaces first."""
        interfaces = {name: converted for section in self.sections.values() for name, (_, converted) in section.items()}
        for item, route in self.routes:
            owners = [
                name for name, network in self.networks if name in interfaces and values.within(route["via"], network)
            ]
            if owners:
                interfaces[owners[0]].setdefault("routes", []).append(route)
            else:
                hint = "write it into `routes` of its subnet"
                self.note(f"a route has no effect: no interface has the network of {route['via']}", item.position, hint)
        for item, interface, names in self.servers:
            if interface is not None and (not isinstance(interface, str) or interface not in interfaces):
                raise Problem(f"there is no interface {quoted(interface)}", where=str(item.position))
            given = {key: value for key, value in names.items() if value}
            targets = [interface] if interface is not None else values.resolving_interfaces(interfaces)
            if not targets:
                self.note("name servers have no effect: no interface has an address", item.position)
            for name in targets:
                for key, value in given.items():
                    interfaces[name].setdefault("nameservers", {}).setdefault(key, []).extend(value)
        for name in undefined_members(
            interfaces
        ):  # as cloud-init does: a name without an entry is a physical interface
            self.sections.setdefault("ethernets", {})[name] = (position, {})
        version = (position, Value(2, position))
        sections = {
            section: (
                position,
                Value(
                    {
                        name: (entry_position, value_at(converted, entry_position))
                        for name, (entry_position, converted) in entries.items()
                    },
                    position,
                ),
            )
            for section, entries in self.sections.items()
        }
        return Value({"version": version, **sections}, position)


def items(value: Value | None) -> tuple[Value, ...]:
    """The items of a list, which may be missing or empty. Raises `Problem`."""
    if value is None or value.data is None:
        return ()
    if not isinstance(value.data, tuple):
        raise Problem("is not a list", where=str(value.position))
    return value.data


def undefined_members(interfaces: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The members and links of interfaces that have no entry."""
    named = [
        name for converted in interfaces.values() for name in (*converted.get("interfaces", ()), converted.get("link"))
    ]
    return [name for name in dict.fromkeys(name for name in named if isinstance(name, str)) if name not in interfaces]
