"""The CNI configuration of the pod network on a server node.

On an agent node, containerd writes this file after the controller manager has assigned a pod range to the node.
"""

from typing import Any

from osbuild.shared.node_settings import NodeSettings


def cni_config(settings: NodeSettings) -> dict[str, Any]:
    """One bridge with addresses from the node's pod range (CNI specification 1.0.0)."""
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
                    "dataDir": "/run/cni/networks",  # on a tmpfs, because containers do not survive a boot
                    "ranges": [[{"subnet": settings.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
