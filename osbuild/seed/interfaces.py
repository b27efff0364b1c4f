"""Network interfaces as the seed has them: addresses checked before a node finds out that they are wrong."""

import ipaddress
from collections.abc import Callable, Iterable

from osbuild.errors import Error
from osbuild.profile.model import Interface


def check(interfaces: Iterable[Interface]) -> None:
    """Raise `Error` for the first address, gateway or name that can't work."""
    seen: set[str] = set()
    for interface in interfaces:
        where = f"network.interfaces, {interface.name}"
        if interface.name in seen:
            raise Error("there are two interfaces of this name", where=where, hint="put their settings together")
        seen.add(interface.name)
        for address in interface.addresses:
            if "/" not in address:
                raise Error(
                    f"`{address}` has no prefix length", where=f"{where}.addresses", hint=f"write `{address}/24`"
                )
            parse(ipaddress.ip_interface, address, f"{where}.addresses", "192.0.2.5/24")
        for server in interface.dns:
            parse(ipaddress.ip_address, server, f"{where}.dns", "192.0.2.1")
        if interface.gateway is not None:
            parse(ipaddress.ip_address, interface.gateway, f"{where}.gateway", "192.0.2.1")
            if not interface.addresses and not interface.dhcp:
                raise Error(
                    "a gateway is of no use to an interface without an address",
                    where=where,
                    hint="give `addresses`, or `dhcp: true`",
                )


def parse(read: Callable[[str], object], text: str, where: str, example: str) -> None:
    try:
        read(text)
    except ValueError as error:
        raise Error(f"`{text}` is not an address: {error}", where=where, hint=f"such as `{example}`") from error


def match(interface: Interface) -> str:
    """The key of an interface in network-config, which cloud-init turns into `Name=` of systemd.network(5).

    cloud-init names the file after the key, and systemd-networkd takes the first file that matches, in order of
    name. Patterns therefore begin with a name that no interface has and that sorts behind all others: `Name=` is a
    list.
    """
    return f"~ {interface.name}" if set(interface.name) & set("*?[") else interface.name
