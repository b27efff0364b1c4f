"""Keys and certificates of a server: what there is to be, and that it is made."""

import ipaddress
import re
import subprocess
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import API_PORT, STABLE_ADDRESS, Settings

PROGRAM = "usr/lib/edge-osbuild/edge-pki"


def local_addresses(settings: Settings, table: Path = Path("/proc/net/fib_trie")) -> list[str]:
    """IPv4 addresses of this host from the kernel's table, without loopback's and the pods' own."""
    pods = ipaddress.ip_network(settings.cluster_cidr)
    found: set[str] = set()
    last = ""
    for line in table.read_text().splitlines():
        if match := re.search(r"\|-- (\S+)", line):
            last = match[1]
        elif "/32 host LOCAL" in line:
            address = ipaddress.ip_address(last)
            if not address.is_loopback and address not in pods:
                found.add(last)
    return sorted(found)


def addresses(settings: Settings, found: list[str]) -> list[str]:
    """Every address by which the API server may be called; `found` are those of the interfaces."""
    own = ["127.0.0.1", STABLE_ADDRESS, settings.api_service, settings.advertise_address, *found]
    return sorted({*own, *([settings.node_ip] if settings.node_ip else [])})


def plan(settings: Settings, paths: Paths, found: list[str]) -> dict[str, Any]:
    """What `edge-pki` is to make on a server. Names as kubeadm's, so that its users feel at home."""
    domain = settings.word("cluster-domain", "cluster.local")
    names = ["localhost", settings.node_name, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append(f"kubernetes.default.svc.{domain}")
    reached = addresses(settings, found)
    for word in settings.words("tls-san"):
        (reached if word.replace(".", "").isdigit() or ":" in word else names).append(word)

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
        "authorities": ["ca", "front-proxy-ca"],
        "keys": ["sa"],
        "certificates": [
            {
                "name": "apiserver",
                "authority": "ca",
                "common_name": "kube-apiserver",
                "server": True,
                "dns_names": sorted(set(names)),
                "addresses": sorted(set(reached)),
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
                "addresses": ["127.0.0.1", *([settings.node_ip] if settings.node_ip else [STABLE_ADDRESS])],
            },
        ],
        "kubeconfigs": [
            client("admin.conf", "admin", "system:masters"),
            client("controller-manager.conf", "system:kube-controller-manager", "system:masters"),
            client("scheduler.conf", "system:kube-scheduler"),
            client("kubelet.conf", f"system:node:{settings.node_name}", "system:nodes"),
            client("kube-proxy.conf", "system:kube-proxy"),
        ],
    }


def make(root: Path, plan: Path) -> bool:
    """Run the PKI program; True if it made anything."""
    done = subprocess.run([root / PROGRAM, plan], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode:
        hint = "they are kept in /var/lib/kubernetes/pki: put back what is missing there, or damaged"
        raise Problem(f"keys could not be made: {done.stderr.strip()}", hint=hint)
    return bool(done.stdout)
