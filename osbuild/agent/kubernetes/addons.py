"""The cluster's add-ons of the upstream distribution: DNS, storage, metrics, as manifests of the image."""

import json
import re
from pathlib import Path

from osbuild.agent.kubernetes.name_servers import name_server
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.shared.components import addons_left_out
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import NodeSettings

TEMPLATES = "usr/lib/edge-osbuild/addons"


def write_addons(settings: NodeSettings, paths: Paths) -> list[Path]:
    """Write the manifests of the image's add-ons with this cluster's addresses, and return them. Raises `OSError`."""
    values = {
        "CLUSTER_DNS": settings.cluster_dns[0],
        "CLUSTER_DNS_LIST": json.dumps(settings.cluster_dns),
        "IP_FAMILY_POLICY": "RequireDualStack" if len(settings.cluster_dns) > 1 else "SingleStack",
        "CLUSTER_DOMAIN": settings.option("cluster-domain", "cluster.local"),
        # systemd-resolved of the node that runs the pod, which knows the name servers of the moment, if any.
        "NAME_SERVER": name_server(settings) if paths.resolved else "/etc/resolv.conf",
        "STORAGE_PATH": settings.option("default-local-storage-path", "/var/lib/kubernetes/storage"),
    }
    folder = paths.run / "addons"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    left_out = addons_left_out(settings)
    for template in sorted((paths.root / TEMPLATES).glob("*.yaml")):
        if template.stem in left_out:
            continue
        text = re.sub(r"%\{(\w+)\}%", lambda match: values[match[1]], read_file(template).decode())
        write_text(folder / template.name, text)
        written.append(folder / template.name)
    for other in set(folder.iterdir()) - set(written):
        other.unlink()
    return written
