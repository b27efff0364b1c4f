"""Network interfaces as the seed has them."""

from collections.abc import Iterable

from osbuild.errors import Error
from osbuild.profile.model import Interface


def check(interfaces: Iterable[Interface]) -> None:
    """Raise `Error` for what a profile may say, but no seed can: its addresses were checked when it was read."""
    seen: set[str] = set()
    for interface in interfaces:
        where = f"network.interfaces, {interface.name}"
        if interface.name in seen:
            hint = "give each a name of its own: with `mac`, the name is only a label"
            raise Error("there are two interfaces of this name", where=where, hint=hint)
        seen.add(interface.name)
        if interface.gateway is not None and not interface.addresses and not interface.dhcp:
            message = "a gateway is of no use to an interface without an address"
            raise Error(message, where=where, hint="give `addresses`, or `dhcp: true`")


def match(interface: Interface) -> str:
    """The key of an interface in network-config, which cloud-init turns into `Name=` of systemd.network(5).

    cloud-init names the file after the key, and systemd-networkd takes the first file that matches, in order of
    name. Patterns therefore begin with a name that no interface has and that sorts behind all others: `Name=` is a
    list.
    """
    return f"~ {interface.name}" if set(interface.name) & set("*?[") else interface.name
