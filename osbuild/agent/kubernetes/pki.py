"""Keys and certificates of a server node: the plan for `edge-pki`, and its execution."""

import ipaddress
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import etcd
from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.node_settings import API_PORT, STABLE_ADDRESS, NodeSettings

TEMPORARY, DUPLICATE = 0x01, 0x08  # IFA_F_TEMPORARY, IFA_F_DADFAILED (linux/if_addr.h)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PROGRAM = "usr/lib/edge-osbuild/edge-pki"


def local_addresses(settings: NodeSettings, tables: Path = Path("/proc/net")) -> list[str]:
    """Addresses of this node from the kernel's tables, without loopback, link-local and pod addresses."""
    pods = [ipaddress.ip_network(cidr) for cidr in settings.cluster_cidr.split(",")]
    addresses = {*local_ipv4(tables / "fib_trie"), *local_ipv6(tables / "if_inet6")}
    used = (
        address
        for address in addresses
        if not (address.is_loopback or address.is_link_local) and not any(address in network for network in pods)
    )
    return [str(address) for address in sorted(used, key=lambda address: (address.version, int(address)))]


def local_ipv4(table: Path) -> Iterator[Address]:
    """Local IPv4 addresses from /proc/net/fib_trie (proc(5))."""
    last = ""
    for line in table.read_text().splitlines():
        if match := re.search(r"\|-- (\S+)", line):
            last = match[1]
        elif "/32 host LOCAL" in line:
            yield ipaddress.ip_address(last)


def local_ipv6(table: Path) -> Iterator[Address]:
    """Permanent IPv6 addresses from /proc/net/if_inet6 (proc(5)); none on a kernel without IPv6."""
    if not table.exists():
        return
    for line in table.read_text().splitlines():
        fields = line.split()
        # Temporary addresses (RFC 8981) change every day, and duplicates belong to another host.
        if not int(fields[4], 16) & (TEMPORARY | DUPLICATE):
            yield ipaddress.ip_address(bytes.fromhex(fields[0]))


def api_addresses(settings: NodeSettings, local: list[str]) -> list[str]:
    """All addresses at which clients may reach the API server. `local` are the addresses of the interfaces."""
    own = ["127.0.0.1", STABLE_ADDRESS, *settings.api_services, settings.advertise_address, *local]
    return sorted({*own, *own_addresses(settings)})


def own_addresses(settings: NodeSettings) -> list[str]:
    """The configured addresses at which others reach this node."""
    return [*settings.node_addresses, *settings.external_addresses]


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def plan_pki(settings: NodeSettings, paths: Paths, local: list[str]) -> dict[str, Any]:
    """The plan of keys and certificates for `edge-pki`. The file names are those of kubeadm."""
    domain = settings.option("cluster-domain", "cluster.local")
    names = ["localhost", settings.node_name, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append(f"kubernetes.default.svc.{domain}")
    addresses = api_addresses(settings, local)
    for name in settings.option_values("tls-san"):
        (addresses if is_address(name) else names).append(name)

    def client(path: str, user: str, *groups: str) -> dict[str, Any]:
        return {
            "path": str(paths.data / path),
            "authority": "ca",
            "server": f"https://127.0.0.1:{API_PORT}",
            "user": user,
            "organizations": list(groups),
        }

    return {
        "folder": str(paths.pki),
        "authorities": ["ca", "front-proxy-ca", *([etcd.AUTHORITY] if settings.uses_etcd else [])],
        "keys": ["sa"],
        "certificates": [
            {
                "name": "apiserver",
                "authority": "ca",
                "common_name": "kube-apiserver",
                "server": True,
                "dns_names": sorted(set(names)),
                "addresses": sorted(set(addresses)),
            },
            {
                "name": "apiserver-kubelet-client",
                "authority": "ca",
                "common_name": "kube-apiserver-kubelet-client",
                "organizations": ["system:masters"],
                "client": True,
            },
            {
                "name": "front-proxy-client",
                "authority": "front-proxy-ca",
                "common_name": "front-proxy-client",
                "client": True,
            },
            {
                "name": "kubelet",
                "authority": "ca",
                "common_name": f"system:node:{settings.node_name}",
                "organizations": ["system:nodes"],
                "server": True,
                "dns_names": [settings.node_name],
                "addresses": sorted({"127.0.0.1", STABLE_ADDRESS, *local, *own_addresses(settings)}),
            },
            *(etcd.plan_certificates(settings) if settings.uses_etcd else []),
        ],
        "kubeconfigs": [
            client("admin.conf", "admin", "system:masters"),
            client("controller-manager.conf", "system:kube-controller-manager"),
            client("scheduler.conf", "system:kube-scheduler"),
            client("kubelet.conf", f"system:node:{settings.node_name}", "system:nodes"),
            client("kube-proxy.conf", "system:kube-proxy"),
            *([client("load-balancer.conf", "edge-load-balancer")] if settings.load_balancer else []),
            *([client("helm-controller.conf", "system:helm-controller")] if settings.helm else []),
        ],
    }


def run_edge_pki(root: Path, plan: Path) -> bool:
    """Run `edge-pki`. Returns whether running programs have to restart. Raises `Problem`."""
    result = subprocess.run(
        [root / PROGRAM, plan], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    print(result.stdout, end="")
    if result.returncode:
        hint = "restore missing or damaged files in /var/lib/kubernetes/pki"
        raise Problem(f"keys and certificates could not be created: {result.stderr.strip()}", hint=hint)
    # The API server and the kubelet reload their certificates when the files change.
    reloaded = r"/(apiserver|kubelet)\.crt: its names or addresses"
    return any(not re.search(reloaded, line) for line in result.stdout.splitlines())
