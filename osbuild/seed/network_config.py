"""A profile's network as network-config, version 2, which is netplan's format (netplan(5))."""

from pathlib import Path
from typing import Any

from osbuild.config import secrets
from osbuild.config.network import Bond, Bridge, Interface, Link, NetworkSettings, Vlan, Wifi
from osbuild.shared.errors import Error

GLOB = set("*?[")


def network_config(network: NetworkSettings, folder: Path) -> dict[str, Any]:
    """Return network-config. Secrets are resolved relative to `folder`. Raises `Error`."""
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
    return {"version": 2, **{name: links for name, links in sections.items() if links or name == "ethernets"}}


def netplan_name(link: Link, number: int) -> str:
    """Return netplan's name of an interface, which becomes part of a file's name."""
    # systemd-networkd uses the first matching file, sorted by name, and `~` sorts patterns after every name.
    return f"~{number}" if GLOB & set(link.name) else link.name


def link_config(link: Link, members: set[str], folder: Path) -> dict[str, Any]:
    """Return the network-config of one interface. `members` are the interfaces in bonds and bridges."""
    config: dict[str, Any] = {}
    if isinstance(link, Interface):
        if link.mac:
            config["match"] = {"macaddress": link.mac.lower()}
        elif GLOB & set(link.name):
            config["match"] = {"name": link.name}
    config |= link_options(link, folder)
    dhcp = link.dhcp and link.name not in members
    config |= {"dhcp4": dhcp, "dhcp6": dhcp, "optional": True}
    if link.mtu:
        config["mtu"] = link.mtu
    if link.addresses:
        config["addresses"] = list(link.addresses)
    if routes := route_configs(link):
        config["routes"] = routes
    servers = {name: list(values) for name, values in (("addresses", link.dns), ("search", link.search)) if values}
    if servers:
        config["nameservers"] = servers
    return config


def route_configs(link: Link) -> list[dict[str, Any]]:
    """Return the network-config of the gateway and the routes of an interface."""
    configs: list[dict[str, Any]] = []
    if link.gateway:
        configs.append({"to": default_network(link.gateway), "via": link.gateway})
    for route in link.routes:
        configs.append({"to": default_network(route.via) if route.to == "default" else route.to, "via": route.via})
        if route.metric is not None:
            configs[-1]["metric"] = route.metric
        if route.on_link:
            configs[-1]["on-link"] = True
    return configs


def default_network(gateway: str) -> str:
    """Return the destination of a default route through `gateway`."""
    return "::/0" if ":" in gateway else "0.0.0.0/0"


def link_options(link: Link, folder: Path) -> dict[str, Any]:
    """Return the settings that only this kind of interface has. Raises `Error`."""
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
    """Resolve the passphrase of a wireless network (IEEE 802.11i, 8 to 63 ASCII characters). Raises `Error`."""
    assert wifi.password is not None
    text = secrets.resolve_secret(wifi.password, folder=folder)
    if not (8 <= len(text) <= 63 and text.isascii() and text.isprintable()):
        raise Error(
            "this is not a Wi-Fi passphrase: it needs 8 to 63 printable ASCII characters",
            where=f"network.wifis, {wifi.name}, {wifi.password}",
            hint="store the access point's passphrase itself, not a hash of it",
        )
    return text
