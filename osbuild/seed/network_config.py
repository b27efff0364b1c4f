"""The network of a profile as network-config has it: version 2, which is netplan's format (netplan(5))."""

from pathlib import Path
from typing import Any

from osbuild.config import secrets
from osbuild.config.network import Bond, Bridge, Interface, Link, NetworkSettings, Vlan, Wifi
from osbuild.shared.errors import Error

GLOB = set("*?[")


def network_config(network: NetworkSettings, folder: Path) -> dict[str, Any]:
    """network-config. Secrets are resolved relative to `folder`. Raises `Error`."""
    members = {name for bond in network.bonds for name in bond.members}
    members |= {name for bridge in network.bridges for name in bridge.members}

    def entries(links: tuple[Link, ...]) -> dict[str, Any]:
        return {netplan_name(link, number): link_config(link, members, folder) for number, link in enumerate(links)}

    sections = {
        "ethernets": entries(network.interfaces),
        "bonds": entries(network.bonds),
        "vlans": entries(network.vlans),
        "bridges": entries(network.bridges),
        "wifis": entries(network.wifis),
    }
    return {"version": 2, **{name: made for name, made in sections.items() if made or name == "ethernets"}}


def netplan_name(link: Link, number: int) -> str:
    """netplan's name of an interface, which is part of a file's name.

    systemd-networkd takes the first file that matches, in order of name: patterns come after every name.
    """
    return f"~{number}" if GLOB & set(link.name) else link.name


def link_config(link: Link, members: set[str], folder: Path) -> dict[str, Any]:
    """What network-config says of one interface. `members` are the interfaces that bonds and bridges have."""
    made: dict[str, Any] = {}
    if isinstance(link, Interface):
        if link.mac:
            made["match"] = {"macaddress": link.mac.lower()}
        elif GLOB & set(link.name):
            made["match"] = {"name": link.name}
    made |= link_options(link, folder)
    dhcp = link.dhcp and link.name not in members
    made |= {"dhcp4": dhcp, "dhcp6": dhcp, "optional": True}
    if link.mtu:
        made["mtu"] = link.mtu
    if link.addresses:
        made["addresses"] = list(link.addresses)
    if made_routes := route_configs(link):
        made["routes"] = made_routes
    servers = {name: list(values) for name, values in (("addresses", link.dns), ("search", link.search)) if values}
    if servers:
        made["nameservers"] = servers
    return made


def route_configs(link: Link) -> list[dict[str, Any]]:
    """The gateway and the routes of an interface."""
    made: list[dict[str, Any]] = []
    if link.gateway:
        made.append({"to": default_network(link.gateway), "via": link.gateway})
    for route in link.routes:
        made.append({"to": default_network(route.via) if route.to == "default" else route.to, "via": route.via})
        if route.metric is not None:
            made[-1]["metric"] = route.metric
        if route.on_link:
            made[-1]["on-link"] = True
    return made


def default_network(gateway: str) -> str:
    """The network of a default route by `gateway`."""
    return "::/0" if ":" in gateway else "0.0.0.0/0"


def link_options(link: Link, folder: Path) -> dict[str, Any]:
    """What only this kind of interface has."""
    if isinstance(link, Bond):
        parameters: dict[str, Any] = {"mode": link.mode, "mii-monitor-interval": link.monitor}
        for name, value in (
            ("primary", link.primary),
            ("transmit-hash-policy", link.hash_policy),
            ("lacp-rate", link.lacp_rate),
        ):
            if value is not None:
                parameters[name] = value
        return {"interfaces": list(link.members), "parameters": parameters}
    if isinstance(link, Bridge):
        return {"interfaces": list(link.members), "parameters": {"stp": link.stp}}
    if isinstance(link, Vlan):
        return {"id": link.id, "link": link.link}
    if isinstance(link, Wifi):
        point: dict[str, Any] = {"hidden": True} if link.hidden else {}
        if link.password is not None:
            point["password"] = read_passphrase(link, folder)
        return {"access-points": {link.ssid: point}}
    return {}


def read_passphrase(wifi: Wifi, folder: Path) -> str:
    """The passphrase of a wireless network (IEEE 802.11i, 8 to 63 characters of ASCII). Raises `Error`."""
    assert wifi.password is not None
    text = secrets.resolve_secret(wifi.password, folder=folder)
    if not (8 <= len(text) <= 63 and text.isascii() and text.isprintable()):
        raise Error(
            "this is not a passphrase of Wi-Fi: 8 to 63 printable ASCII characters",
            where=f"network.wifis, {wifi.name}, {wifi.password}",
            hint="store the passphrase as the access point has it",
        )
    return text
