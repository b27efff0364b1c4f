"""Checks of a profile's `network` that a schema can't express."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from osbuild.config.checks.addresses import parse_address, parse_static_address
from osbuild.config.checks.hosts import url_problem
from osbuild.config.checks.routes import check_gateway, check_route
from osbuild.config.document import quote_text
from osbuild.config.network import Bond, Bridge, Interface, Link, NetworkSettings, ProxySettings, Route, Vlan, Wifi
from osbuild.config.profile import Profile
from osbuild.config.scalars import find_nearest
from osbuild.shared.errors import Error
from osbuild.shared.interface_names import name_problem, pattern_problem

Where = Callable[..., str]
KINDS = ("interfaces", "bonds", "vlans", "bridges", "wifis")
# Interfaces that the image or Kubernetes creates, and a key of netplan.
RESERVED = {
    **dict.fromkeys(
        ("lo", "edge0", "cni0", "flannel.1", "kube-bridge", "kube-ipvs0"), "which the image creates itself"
    ),
    "renderer": "which netplan takes for a setting",
}
# Bond settings that need a mode: key -> modes.
MODES = {
    "primary": ("active-backup",), "lacp_rate": ("802.3ad",), "hash_policy": ("802.3ad", "balance-xor", "balance-tlb"),
}  # fmt: skip
NO_PROXY_HOST = re.compile(r"(\*?\.)?[A-Za-z0-9_\[:]")
LONGEST_DOMAIN = 253  # characters (RFC 1035, 2.3.4)
SHORTEST_IPV6_MTU = 1280  # RFC 8200, 5


@dataclass(frozen=True)
class StatedLink:
    """A link, and its dotted key."""

    link: Link
    key: str


def check_network(profile: Profile, where: Where) -> None:
    """Raise `Error` for the first invalid value of `network`."""
    links = list(_links(profile.network))
    _unique(links, where)
    for stated in links:
        _link(stated, where)
    named = {stated.link.name: stated for stated in links}
    owners = _members(links, named, where)
    _vlans(profile.network, named, where)
    _cycles(links, where)
    _addresses(links, owners, where)
    _routes(links, where)
    _wifi(profile, where)
    _proxy(profile.network.proxy, where)


def _links(network: NetworkSettings) -> Iterator[StatedLink]:
    for kind in KINDS:
        for number, link in enumerate(getattr(network, kind)):
            yield StatedLink(link, f"network.{kind}[{number}]")


def _unique(links: Sequence[StatedLink], where: Where) -> None:
    seen: dict[tuple[str, str], StatedLink] = {}
    for stated in links:
        link = stated.link
        names = [("name", link.name)]
        if isinstance(link, Interface) and link.mac:
            names = [("mac", link.mac.lower()), *names]
        for name in names:
            if name in seen:
                hint = f"the other is at {where(seen[name].key)}: merge the two"
                raise Error(f"found two interfaces with the {name[0]} `{name[1]}`", where=where(stated.key), hint=hint)
            seen[name] = stated
        if reason := pattern_problem(link.name):
            message = f"found the pattern {quote_text(link.name)}, which matches no interface: {reason}"
            raise Error(message, where=where(f"{stated.key}.name"), hint="write a pattern such as `en*` or `eth[0-3]`")
        is_virtual = not isinstance(link, Interface | Wifi)
        if not set(link.name) & set("*?[") and (reason := name_problem(link.name, assigned=is_virtual)):
            message = f"found the interface {quote_text(link.name)}, which is not a valid name: {reason}"
            raise Error(message, where=where(f"{stated.key}.name"), hint="give it another name, such as `vlan100`")
        if reason := RESERVED.get(link.name):
            message = f"found the interface `{link.name}`, {reason}"
            raise Error(message, where=where(f"{stated.key}.name"), hint="give it another name")


def _link(stated: StatedLink, where: Where) -> None:
    link, dotted = stated.link, stated.key
    addresses = [
        parse_static_address(text, where(f"{dotted}.addresses[{at}]")) for at, text in enumerate(link.addresses)
    ]
    for at, text in enumerate(link.dns):
        parse_address(text, "a name server's IP address", where(f"{dotted}.dns[{at}]"), loopback=True)
    for at, text in enumerate(link.search):
        if len(text.removeprefix("~").removesuffix(".")) > LONGEST_DOMAIN:
            message = f"found the domain {quote_text(text)}, expected at most {LONGEST_DOMAIN} characters"
            raise Error(message, where=where(f"{dotted}.search[{at}]"), hint="check the name of the domain")
    if isinstance(link, Interface) and link.mac and (int(link.mac[:2], 16) & 1 or not link.mac.strip("0:")):
        message = f"found the hardware address {quote_text(link.mac)}, which no interface has"
        hint = "write the interface's own, as `ip link` shows it; it is not zero, broadcast or multicast"
        raise Error(message, where=where(f"{dotted}.mac"), hint=hint)
    if link.gateway is not None and not addresses and not link.dhcp:
        message = "found a gateway for an interface without an address"
        hint = "write `addresses:`, or `dhcp: true`"
        raise Error(message, where=where(f"{dotted}.gateway"), hint=hint)
    if link.gateway is not None:
        check_gateway(link.gateway, addresses, where(f"{dotted}.gateway"))
    for at, route in enumerate(link.routes):
        check_route(route, addresses, link.dhcp, f"{dotted}.routes[{at}]", where)
    if link.mtu is not None and link.mtu < SHORTEST_IPV6_MTU and any(static.version == 6 for static in addresses):
        message = f"found the MTU {link.mtu} with an IPv6 address, expected at least {SHORTEST_IPV6_MTU}"
        raise Error(message, where=where(f"{dotted}.mtu"), hint=f"write `mtu: {SHORTEST_IPV6_MTU}` or more")


def _members(links: Sequence[StatedLink], named: dict[str, StatedLink], where: Where) -> dict[str, str]:
    """Return the bond or bridge of each member, by name."""
    owners: dict[str, str] = {}
    for stated in links:
        link = stated.link
        if isinstance(link, Bond):
            _bond(link, stated.key, where)
        for at, member in enumerate(link.members if isinstance(link, Bond | Bridge) else ()):
            position = where(f"{stated.key}.members[{at}]")
            _known(member, named, f"member of `{link.name}`", position)
            if member in owners:
                hint = "an interface is a member of one bond or bridge: remove it from the other"
                raise Error(f"found `{member}`, which is a member of `{owners[member]}`", where=position, hint=hint)
            owners[member] = link.name
            member_link = named[member].link
            stated_keys = [
                key for key in ("addresses", "gateway", "routes", "dns", "search") if getattr(member_link, key)
            ]
            if stated_keys:
                message = f"found `{stated_keys[0]}` for `{member}`, a member of `{link.name}`"
                hint = f"write it for `{link.name}`: a member has no addresses of its own"
                raise Error(message, where=where(f"{named[member].key}.{stated_keys[0]}"), hint=hint)
            if isinstance(link, Bond) and isinstance(member_link, Bond | Bridge | Vlan):
                message = f"found the member `{member}` of the bond `{link.name}`, expected a physical interface"
                raise Error(message, where=position, hint="write an interface of `network.interfaces`")
            if isinstance(link, Bridge) and isinstance(member_link, Bridge | Wifi):
                kind = "another bridge" if isinstance(member_link, Bridge) else "a wireless interface"
                message = f"found the member `{member}` of the bridge `{link.name}`, but Linux rejects {kind} there"
                raise Error(message, where=position, hint="write an interface, a bond or a VLAN")
    return owners


def _known(name: str, named: dict[str, StatedLink], what: str, position: str) -> None:
    if name in named and not set(name) & set("*?["):
        return
    suggestion = find_nearest(name, [known for known in named if known != name])
    hint = f"did you mean `{suggestion}`?" if suggestion else f"add `- name: {name}` to `network.interfaces`"
    if set(name) & set("*?["):
        hint = "write the name of one interface, not a pattern"
    raise Error(
        f"found the {what} {quote_text(name)}, expected an interface of this profile", where=position, hint=hint
    )


def _bond(bond: Bond, dotted: str, where: Where) -> None:
    if not bond.members:
        message = f"found no members of the bond `{bond.name}`"
        raise Error(message, where=where(f"{dotted}.members"), hint="write `members: [enp1s0, enp2s0]`")
    for name, modes in MODES.items():
        if getattr(bond, name) is not None and bond.mode not in modes:
            message = f"found `{name}` with the mode {bond.mode}, expected {' or '.join(modes)}"
            raise Error(message, where=where(f"{dotted}.{name}", f"{dotted}.mode"), hint=f"remove `{name}`")
    if bond.primary is not None and bond.primary not in bond.members:
        message = f"found the primary {quote_text(bond.primary)}, expected one of the members"
        raise Error(message, where=where(f"{dotted}.primary"), hint=f"write one of: {', '.join(bond.members)}")


def _vlans(network: NetworkSettings, named: dict[str, StatedLink], where: Where) -> None:
    seen: dict[tuple[str, int], int] = {}
    for number, vlan in enumerate(network.vlans):
        dotted = f"network.vlans[{number}]"
        _known(vlan.link, named, f"link of `{vlan.name}`", where(f"{dotted}.link"))
        if (vlan.link, vlan.id) in seen:
            earlier = network.vlans[seen[vlan.link, vlan.id]]
            message = f"found the VLAN {vlan.id} on `{vlan.link}` twice, as `{earlier.name}` and `{vlan.name}`"
            raise Error(message, where=where(f"{dotted}.id"), hint="remove one of them")
        seen[vlan.link, vlan.id] = number
        below = named[vlan.link].link.mtu
        if vlan.mtu is not None and below is not None and vlan.mtu > below:
            message = f"found the MTU {vlan.mtu} of `{vlan.name}`, more than the {below} of `{vlan.link}`"
            raise Error(message, where=where(f"{dotted}.mtu"), hint=f"write `mtu: {below}` or less")


def _cycles(links: Sequence[StatedLink], where: Where) -> None:
    below = {
        stated.link.name: stated.link.members
        if isinstance(stated.link, Bond | Bridge)
        else (stated.link.link,)
        if isinstance(stated.link, Vlan)
        else ()
        for stated in links
    }

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            loop = " → ".join([*chain[chain.index(name) :], name])
            key = next(stated.key for stated in links if stated.link.name == name)
            raise Error(
                f"found interfaces that contain each other: {loop}", where=where(key), hint="remove one of them"
            )
        for below_name in below[name]:
            visit(below_name, (*chain, name))

    for name in below:
        visit(name, ())


def _addresses(links: Sequence[StatedLink], owners: dict[str, str], where: Where) -> None:
    seen: dict[str, StatedLink] = {}
    for stated in links:
        for at, text in enumerate(stated.link.addresses):
            host = str(ipaddress.ip_interface(text).ip)
            if host in seen:
                message = f"found the address {host} of `{seen[host].link.name}` again"
                position = where(f"{stated.key}.addresses[{at}]")
                raise Error(message, where=position, hint=f"the other is at {where(f'{seen[host].key}.addresses')}")
            seen[host] = stated


def _routes(links: Sequence[StatedLink], where: Where) -> None:
    """Raise `Error` for two default routes of one IP version with the same metric, or one route written twice.

    Linux can use two routes to another network: the second one if the first one's link is down.
    """
    seen: dict[tuple[str, ...], str] = {}
    for stated in links:
        routes = [(Route("default", stated.link.gateway), "gateway")] if stated.link.gateway is not None else []
        routes += [(route, f"routes[{at}]") for at, route in enumerate(stated.link.routes)]
        for route, name in routes:
            version, dotted = ipaddress.ip_address(route.via).version, f"{stated.key}.{name}"
            if route.to in ("default", "0.0.0.0/0", "::/0"):
                key: tuple[str, ...] = (f"IPv{version}", str(route.metric))
                message = f"found a second default gateway for IPv{version} with the same metric"
                advice = f"write `routes: [{{to: default, via: {route.via}, metric: 200}}]`"
            else:
                key = (stated.key, str(ipaddress.ip_network(route.to)), route.via, str(route.metric))
                message, advice = f"found the route to {route.to} via {route.via} twice", "remove one of them"
            if key in seen:
                raise Error(message, where=where(dotted), hint=f"the other is at {where(seen[key])}: {advice}")
            seen[key] = dotted


def _wifi(profile: Profile, where: Where) -> None:
    for number, wifi in enumerate(profile.network.wifis):
        dotted = f"network.wifis[{number}]"
        if not 1 <= len(wifi.ssid.encode()) <= 32:
            message = f"found {quote_text(wifi.ssid)} for `{dotted}.ssid`, expected 1 to 32 bytes"
            raise Error(message, where=where(f"{dotted}.ssid"), hint="check the name of the wireless network")
        if "\\" in wifi.ssid:
            message = f"found a backslash in {quote_text(wifi.ssid)}, which netplan does not pass on as it is"
            raise Error(message, where=where(f"{dotted}.ssid"), hint="give the wireless network another name")
    if profile.network.wifis and "wpasupplicant" not in profile.packages:
        message = "found `network.wifis`, but no package `wpasupplicant`, which connects them"
        hint = "write `packages+: [wpasupplicant]`, and the package with the adapter's firmware"
        raise Error(message, where=where("packages", "network.wifis"), hint=hint)
    if profile.network.wifis and profile.kernel.flavour == "cloud":
        message = "found `network.wifis` with the kernel `cloud`, which has no drivers for Wi-Fi"
        raise Error(message, where=where("kernel.flavour", "network.wifis"), hint="write `flavour: generic`")


def _proxy(proxy: ProxySettings, where: Where) -> None:
    if proxy.no_proxy and proxy.http is None and proxy.https is None:
        message = "found `no_proxy`, but no proxy"
        raise Error(message, where=where("network.proxy.no_proxy"), hint="write `http:` and `https:` too, or remove it")
    for name in ("http", "https"):
        url = getattr(proxy, name)
        if url is not None and not url.startswith(("file:", "env:")) and (reason := url_problem(url)):
            message = f"found the URL {quote_text(url)}, expected that of a proxy: {reason}"
            raise Error(message, where=where(f"network.proxy.{name}"), hint="write it like `http://proxy.example:3128`")
    for at, text in enumerate(proxy.no_proxy):
        if "/" in text:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                message = f"found {quote_text(text)} in `no_proxy`, expected a network such as `192.0.2.0/24`"
                hint = "check the prefix length: the bits after it must be zero"
                raise Error(message, where=where(f"network.proxy.no_proxy[{at}]"), hint=hint) from error
        elif text != "*" and not NO_PROXY_HOST.match(text):
            message = f"found {quote_text(text)} in `no_proxy`, expected a host or domain"
            hint = "write one such as `host.example` or `.example.com`"
            raise Error(message, where=where(f"network.proxy.no_proxy[{at}]"), hint=hint)
