"""The resolv.conf(5) for pods. Its only name server is systemd-resolved of the node.

systemd-resolved knows the name servers of the moment. Its own resolv.conf has none while the node has none: CoreDNS
does not start with such a file, and pods keep it until they end.
"""

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import STABLE_ADDRESS, STABLE_ADDRESS6, NodeSettings


def name_server(settings: NodeSettings) -> str:
    """The address of systemd-resolved on every node, of the first family of the pods."""
    return STABLE_ADDRESS6 if ":" in settings.cluster_cidr.split(",")[0] else STABLE_ADDRESS


def write_resolv_conf(settings: NodeSettings, paths: Paths) -> None:
    """Write the resolv.conf for pods, if the image has systemd-resolved. Raises `OSError`.

    It has the search domains that systemd-resolved knows now; `edge-pod-search.service` writes those of later.
    """
    if not paths.resolved:
        return
    lines = [f"nameserver {name_server(settings)}"]
    if paths.resolved_servers.exists():
        known = read_file(paths.resolved_servers).decode(errors="replace").splitlines()
        lines += [line for line in known if line.startswith("search ") and line != "search ."]
    write_text(paths.pod_resolv_conf, "\n".join(lines) + "\n")
