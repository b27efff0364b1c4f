"""`edge-agent kubernetes address`: before every start of K3s, the interface and address that it uses for this node.

Left alone, K3s and its flannel take the interface of the default route. Without a network, or on a node whose other
nodes are on an interface without a gateway, that is `edge0`, whose address every node has: pods of different nodes
would not reach each other.
"""

import ipaddress
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from osbuild.agent.kubernetes import k3s
from osbuild.agent.kubernetes.k3s import NodeAddress
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.shared.node_settings import STABLE_ADDRESS, NodeSettings

PAUSE = 1.0  # seconds between two looks
REMINDER = 60.0  # seconds between two messages


def run_ip(*arguments: str) -> list[dict[str, Any]]:
    """The answer of ip(8) as JSON; empty if it has none."""
    command = ["ip", "-json", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    return [entry for entry in found if entry]


def find_holder(address: str) -> NodeAddress | None:
    """The interface that has `address`; None if none has it, or if IPv6 is still looking for a duplicate."""
    for link in run_ip("address", "show", "to", address):
        for entry in link.get("addr_info", ()):
            same = ipaddress.ip_address(entry.get("local", "::")) == ipaddress.ip_address(address)
            if same and not entry.get("tentative"):
                return NodeAddress(address, link["ifname"])
    return None


def find_route(server: str) -> NodeAddress | None:
    """The address from which this node reaches the server at a URL; None as long as it would be that of `edge0`."""
    try:
        hosts = socket.getaddrinfo(urlsplit(server).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for *_, target in hosts:
        for route in run_ip("route", "get", str(target[0])):
            source, device = route.get("prefsrc"), route.get("dev")
            if source and device and source != STABLE_ADDRESS and device != "lo":
                return NodeAddress(source, device)
    return None


def find_address(settings: NodeSettings) -> NodeAddress | None:
    """The address to use now; None if it is not there yet."""
    return find_holder(settings.node_ip) if settings.node_ip else find_route(settings.server or "")


def needs_address(settings: NodeSettings) -> bool:
    """Whether K3s has to be told. A server without `node_ip` is alone, and the profile's own interface wins."""
    return "flannel-iface" not in settings.config and bool(settings.node_ip or settings.role == "agent")


def write_address(root: Path) -> None:
    """Wait for this node's address, for as long as it takes, and write K3s' configuration with it.

    Raises `Problem` if the settings can't be used.
    """
    settings, paths = load_settings(root), Paths(root)
    found, told = None, -REMINDER
    while needs_address(settings) and (found := find_address(settings)) is None:
        if time.monotonic() - told >= REMINDER:
            what = f"the address {settings.node_ip}" if settings.node_ip else f"a route to {settings.server}"
            print(f"waiting for {what}, which no interface has yet", flush=True)
            told = time.monotonic()
        time.sleep(PAUSE)
    if found:
        print(f"{found.address} on {found.interface}", flush=True)
    k3s.write_config(settings, paths, found)
