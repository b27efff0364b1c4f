"""IP addresses in a profile."""

import ipaddress

from osbuild.config.document import quote_text
from osbuild.shared.errors import Error
from osbuild.shared.host_address import Address, host_address_problem
from osbuild.shared.node_settings import STABLE_ADDRESS

Static = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def parse_static_address(text: str, where: str) -> Static:
    expected = "expected an interface's address with its prefix length, such as `192.0.2.5/24`"
    refuse_scope(text, where)
    try:
        static = ipaddress.ip_interface(text)
    except ValueError as error:
        raise Error(
            f"found {quote_text(text)}, {expected}", where=where, hint="check the digits and the part after `/`"
        ) from error
    if "/" not in text or "." in text.partition("/")[2]:
        length = static.network.prefixlen if "/" in text else 24 if static.version == 4 else 64
        raise Error(f"found {quote_text(text)}, {expected}", where=where, hint=f"write `{static.ip}/{length}`")
    if static.network.prefixlen == 0:
        hint = "a prefix length of 0 means every address: write that of the network, such as `/24`"
        raise Error(f"found {quote_text(text)}, {expected}", where=where, hint=hint)
    if reason := host_address_problem(static.ip):
        raise Error(
            f"found {quote_text(text)}, {expected}: {reason}", where=where, hint="write the address of one host"
        )
    if str(static.ip) == STABLE_ADDRESS:
        message = f"found {quote_text(text)}, which the interface `edge0` of every node has"
        raise Error(message, where=where, hint="write another address")
    wide = static.network.num_addresses > 2
    if wide and static.ip == static.network.network_address:
        example = f"{static.ip + 5}/{static.network.prefixlen}"
        hint = f"this is the address of the network: write a host in it, such as `{example}`"
        raise Error(f"found {quote_text(text)}, {expected}", where=where, hint=hint)
    if wide and static.ip == static.network.broadcast_address and static.version == 4:
        raise Error(
            f"found {quote_text(text)}, {expected}", where=where, hint="this is the network's broadcast address"
        )
    return static


def parse_address(text: str, what: str, where: str, *, loopback: bool = False) -> Address:
    """Return the address of a host. `loopback`: it may be the node itself. Raises `Error`."""
    refuse_scope(text, where)
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        hint = "write it without `/` and prefix length" if "/" in text else "write `192.0.2.1`, or `2001:db8::1`"
        raise Error(f"found {quote_text(text)}, expected {what}", where=where, hint=hint) from error
    if reason := host_address_problem(address, loopback=loopback):
        message = f"found {quote_text(text)}, expected {what}: {reason}"
        raise Error(message, where=where, hint="write the address of one host")
    return address


def refuse_scope(text: str, where: str) -> None:
    """Raise `Error` for an address with a zone (RFC 4007, 11), which netplan rejects."""
    if "%" in text:
        hint = f"write `{text.partition('%')[0]}`; the interface is the one to which the key belongs"
        raise Error(f"found {quote_text(text)}, expected an address without `%`", where=where, hint=hint)
