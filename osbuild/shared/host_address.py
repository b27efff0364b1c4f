"""Whether an IP address can be that of one host, so that other hosts can send packets to it."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # RFC 1122, 3.2.1.3
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
# Ranges without addresses of hosts that others can reach. 240.0.0.0/4 is not one of them: Linux can use it.
UNUSABLE = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8")
)


def host_address_problem(address: Address, *, loopback: bool = False) -> str | None:
    """Say why `address` is not that of a host; None if it is one. `loopback`: the node itself may be meant."""
    if address.is_unspecified:
        return "it means no address"
    if address.is_loopback and not loopback:
        return "it is a loopback address"
    if address.is_multicast:
        return "it is a multicast address"
    if address == BROADCAST:
        return "it is the broadcast address"
    if address.version == 4 and address in THIS_NETWORK:
        return "no host has an address in 0.0.0.0/8"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return f"it stands for the IPv4 address {address.ipv4_mapped}"
    return None


def subnet_problem(address: Address, network: Network) -> str | None:
    """Say why no host of the IPv4 `network` has `address`; None if one can. RFC 3021 has the exception for /31."""
    if address.version == 6 or network.num_addresses <= 2:
        return None
    if address == network.network_address:
        return f"it is the address of the network {network}"
    return f"it is the broadcast address of {network}" if address == network.broadcast_address else None


def unusable_part(network: Network) -> Network | None:
    """Return the range without hosts that `network` overlaps, or None."""
    return next((part for part in UNUSABLE if part.version == network.version and network.overlaps(part)), None)
