"""Host names and URLs, as DNS (RFC 1123) and a node's programs accept them."""

import ipaddress
import re
from urllib.parse import urlsplit

from osbuild.config.document import quote_text
from osbuild.shared.errors import Error
from osbuild.shared.host_address import host_address_problem

LOCAL_NAMES = ("localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback")  # of every /etc/hosts
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)


def host_problem(text: str, *, reachable: bool = False) -> str | None:
    """Say why `text` is neither an IP address nor a host name; None if it is one of them.

    `reachable`: the node sends packets to it, so that an address must be that of a host, or of the node itself.
    """
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return "it is not an IP address"
        return host_address_problem(address, loopback=True) if reachable else None
    name = text.removesuffix(".")
    if len(name) > 253:
        return "a host name has at most 253 characters"
    invalid = next((label for label in name.split(".") if not LABEL.fullmatch(label)), None)
    if invalid is not None:
        return (
            f"{quote_text(invalid[:20])} is not a part of a host name"
            if invalid
            else "a part of the host name is empty"
        )
    return None


def check_host_name(name: str, position: str) -> None:
    """Raise `Error` for a name that a node can't have."""
    if name in LOCAL_NAMES:
        message = f"found the host name `{name}`, which means the node itself on every node"
        raise Error(message, where=position, hint="write another name, such as `edge-7`")
    if reason := host_problem(name):
        message = f"found the host name {quote_text(name)}, expected one as in DNS: {reason}"
        raise Error(message, where=position, hint="write a name such as `edge-7` or `edge-7.example.com`")


def check_time_server(name: str, position: str) -> None:
    """Raise `Error` for an NTP server that is neither a host name nor the IP address of a host."""
    if reason := host_problem(name, reachable=True):
        message = f"found the NTP server {quote_text(name)}, expected a host name or an IP address: {reason}"
        raise Error(message, where=position, hint="write `ntp.example` or `192.0.2.1`")


def url_problem(text: str) -> str | None:
    """Say why a program cannot call the URL `text`: its host or port is wrong. None if it can."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "the host or port is not valid"
    if not parts.hostname:
        return "the host is missing"
    if port is not None and not 1 <= port <= 65535:
        return "a port is a number from 1 to 65535"
    if parts.netloc.endswith(":"):
        return "the port is missing after `:`"
    return host_problem(parts.hostname, reachable=True)
