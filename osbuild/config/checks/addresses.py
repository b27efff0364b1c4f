"""IP addresses in a profile."""

import ipaddress

from osbuild.config.document import quote_text
from osbuild.shared.errors import Error

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
    if static.is_multicast or static.is_unspecified or static.is_loopback:
        raise Error(
            f"found {quote_text(text)}, {expected}",
            where=where,
            hint="multicast addresses, loopback addresses and zero are not valid here",
        )
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


def parse_address(text: str, what: str, where: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    refuse_scope(text, where)
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        hint = "write it without `/` and prefix length" if "/" in text else "write `192.0.2.1`, or `2001:db8::1`"
        raise Error(f"found {quote_text(text)}, expected {what}", where=where, hint=hint) from error


def refuse_scope(text: str, where: str) -> None:
    """Raise `Error` for an address with a zone (RFC 4007, 11), which netplan rejects."""
    if "%" in text:
        hint = f"write `{text.partition('%')[0]}`; the interface is the one to which the key belongs"
        raise Error(f"found {quote_text(text)}, expected an address without `%`", where=where, hint=hint)
