"""`edge-agent kubernetes address`: sets the address and interface that K3s uses, before every start of K3s.

By default, K3s and its flannel use the interface of the default route. Without a network, or if the other nodes are on
an interface without a gateway, that would be `edge0`. All nodes have the same address on `edge0`, so pods of different
nodes could not reach each other.
"""

import ipaddress
import json
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from osbuild.agent.kubernetes import k3s, k3s_join
from osbuild.agent.kubernetes.k3s import NodeAddress
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.readiness import KUBECONFIGS
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.shared.node_settings import STABLE_ADDRESS, NodeSettings
from osbuild.shared.urls import redact_url

PAUSE = 1.0  # seconds between two polls
REMINDER = 60.0  # seconds between two messages


def run_ip(*arguments: str) -> list[dict[str, Any]]:
    """The JSON output of ip(8); empty if it fails."""
    command = ["ip", "-json", *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    entries = json.loads(result.stdout) if result.returncode == 0 and result.stdout.strip() else []
    return [entry for entry in entries if entry]


def find_interface(address: str) -> NodeAddress | None:
    """The interface that has `address`; None if there is none, or during IPv6 duplicate address detection."""
    for link in run_ip("address", "show", "to", address):
        for entry in link.get("addr_info", ()):
            is_same = ipaddress.ip_address(entry.get("local", "::")) == ipaddress.ip_address(address)
            if is_same and not entry.get("tentative"):
                return NodeAddress(address, link["ifname"])
    return None


def find_route(server: str) -> NodeAddress | None:
    """The source address of this node on the route to the server at a URL; None if there is none except `edge0`."""
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
    """The address to use, or one per family with a comma between them; None if it is not available yet."""
    if not settings.node_ip:
        return find_route(settings.server or "")
    found = [node for address in settings.node_addresses if (node := find_interface(address))]
    if len(found) < len(settings.node_addresses):
        return None
    return replace(found[0], address=settings.node_ip)


def needs_address(settings: NodeSettings) -> bool:
    """Whether K3s needs an address: not if the profile sets the interface, nor on a server node without `node_ip`."""
    return "flannel-iface" not in settings.config and bool(settings.node_ip or settings.role == "agent")


def write_address(root: Path) -> None:
    """Wait without limit for the address of this node, and write it to K3s' configuration.

    Raises `Problem` for invalid settings.
    """
    settings, paths = load_settings(root), Paths(root)
    node_address, last_message = None, -REMINDER
    while needs_address(settings) and (node_address := find_address(settings)) is None:
        if time.monotonic() - last_message >= REMINDER:
            missing = (
                f"the address {settings.node_ip}"
                if settings.node_ip
                else f"a route to {redact_url(settings.server or '')}"
            )
            print(f"waiting for {missing}", flush=True)
            last_message = time.monotonic()
        time.sleep(PAUSE)
    joins = settings.role == "agent" and not (root / KUBECONFIGS["agent"][1]).exists()
    if joins and (failure := k3s_join.explain_join(root, settings)):
        print("\n".join(failure.lines()), flush=True)
    if node_address:
        print(f"{node_address.address} on {node_address.interface}", flush=True)
    k3s.write_config(settings, paths, node_address)
