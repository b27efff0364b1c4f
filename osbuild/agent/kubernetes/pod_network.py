"""The pod network of the upstream distribution: flannel between nodes, a bridge on the node, policies.

`edge-network` (osbuild/kubernetes/upstream/network.go) writes the node's range to a file that outlives the boot, so
that pods start at the next boot without an API server.
"""

from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import kubelet
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.upstream_options import FLANNEL_BACKENDS

# K3s' names of flannel's backends (`flannel-backend`), with flannel's own configuration.
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "wireguard-native": {"Type": "wireguard", "PersistentKeepaliveInterval": 25, "Mode": "separate"},
}
OVERHEAD = {"vxlan": 50, "host-gw": 0, "wireguard-native": 80}  # bytes of each packet, of IPv4
IPV6_OVERHEAD = 20  # more than that of IPv4
ETHERNET_MTU = 1500


def write_pod_network(settings: NodeSettings, paths: Paths) -> Path | None:
    """Write the files of the pod network, and return that with its settings. Raises `Problem` and `OSError`.

    If the profile brings its own network, the files are removed, and the result is None.
    """
    settings_file = paths.run / "network.json"
    backend = settings.option("flannel-backend", "vxlan")
    if backend == "none":
        settings_file.unlink(missing_ok=True)
        paths.cni_config.unlink(missing_ok=True)
        return None
    if backend not in BACKENDS:
        hint = f"write one of: {', '.join(FLANNEL_BACKENDS)}"
        raise Problem(f"flannel has no backend {backend!r}", where="kubernetes.config.flannel-backend", hint=hint)
    flannel = paths.run / "flannel.json"
    write_json(flannel, flannel_config(settings.cluster_cidr, BACKENDS[backend]))
    public = settings.external_addresses if settings.flag("flannel-external-ip") else []
    write_json(
        settings_file,
        {
            "node": settings.node_name,
            "kubeconfig": str(kubelet.node_kubeconfig(settings, paths)),
            "flannel": str(flannel),
            "interface": settings.option("flannel-iface", ""),
            "addresses": settings.node_addresses,
            "public_ip": next((address for address in public if ":" not in address), ""),
            "public_ipv6": next((address for address in public if ":" in address), ""),
            "external": settings.external_addresses,
            "lease": str(paths.network_lease),
            "cni": str(paths.cni_config),
            "policies": not settings.flag("disable-network-policy"),
            "service_ranges": settings.service_cidr.split(","),
        },
    )
    lease = System(paths.root).json(f"/{paths.network_lease.relative_to(paths.root)}")
    overhead = OVERHEAD[backend] + (IPV6_OVERHEAD if ":" in settings.cluster_cidr and OVERHEAD[backend] else 0)
    most = ETHERNET_MTU - overhead
    if not lease and settings.role == "server":
        # The controller manager gives this range to the first node, which need not wait for it.
        lease = {"ranges": settings.pod_cidrs, "mtu": most}
    if lease and most < lease["mtu"] <= ETHERNET_MTU:
        lease["mtu"] = most  # at the last boot another backend had smaller headers
    if lease:
        paths.cni_config.parent.mkdir(parents=True, exist_ok=True)
        write_json(paths.cni_config, cni_config(lease["ranges"], lease["mtu"]))
    return settings_file


def flannel_config(cluster_cidr: str, backend: dict[str, Any]) -> dict[str, Any]:
    """Flannel's configuration for the ranges of a cluster (flannel documentation, "Configuration")."""
    config: dict[str, Any] = {"EnableIPv4": False, "EnableNFTables": True, "Backend": backend}
    for cidr in cluster_cidr.split(","):
        config |= {"EnableIPv6": True, "IPv6Network": cidr} if ":" in cidr else {"EnableIPv4": True, "Network": cidr}
    return config


def cni_config(ranges: list[str], mtu: int) -> dict[str, Any]:
    """One bridge with addresses from the node's ranges (CNI specification 1.0.0). `mtu` is in bytes."""
    return {
        "cniVersion": "1.0.0",
        "name": "edge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",  # on a tmpfs, because containers do not survive a boot
                    "ranges": [[{"subnet": subnet}] for subnet in ranges],
                    "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in ranges],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
