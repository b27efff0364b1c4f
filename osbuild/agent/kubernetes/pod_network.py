"""The network of the pods on a server, as the plugins of containerd read it.

An agent's file comes from containerd, once the controller manager has given the node its range.
"""

from typing import Any

from osbuild.shared.node_settings import NodeSettings


def cni_config(settings: NodeSettings) -> dict[str, Any]:
    """One bridge, addresses out of the node's range (CNI specification 1.0.0)."""
    return {
        "cniVersion": "1.0.0",
        "name": "edge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",  # no container outlives a boot, so no address may either
                    "ranges": [[{"subnet": settings.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
