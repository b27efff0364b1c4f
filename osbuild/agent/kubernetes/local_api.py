"""The API server as the programs of an agent node see it: a proxy on the node (upstream/local_api.go).

It uses any server of the cluster that answers. Without one, it answers from what it has stored, so that pods start
again after a boot.
"""

from pathlib import Path
from urllib.parse import urlsplit

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json
from osbuild.shared.node_settings import API_PORT, NodeSettings

LISTEN = f"127.0.0.1:{API_PORT + 1}"  # the port of K3s' load balancer


def write_local_api(settings: NodeSettings, paths: Paths) -> Path:
    """Write the settings of the proxy of an agent node, and return their path. Raises `OSError`."""
    assert settings.server is not None
    server = urlsplit(settings.server)
    host = f"[{server.hostname}]" if ":" in (server.hostname or "") else server.hostname
    path = paths.run / "local-api.json"
    write_json(
        path,
        {
            "listen": LISTEN,
            "server": f"{host}:{server.port or 443}",
            "authority": str(paths.authority),
            "credentials": str(paths.credentials),
            "node": f"system:node:{settings.node_name}",
            "own_authority": str(paths.local_api_authority),
            "store": str(paths.data / "node-objects"),
            "servers": str(paths.data / "servers.json"),
        },
    )
    return path
