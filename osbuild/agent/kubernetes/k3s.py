"""The K3s distribution: its configuration file, its node password, and its manifests."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import certificates
from osbuild.agent.kubernetes.k3s_token import server_token
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json, write_text
from osbuild.shared.node_settings import STABLE_ADDRESS, NodeSettings

DATA = "/var/lib/kubernetes"
# Entries that may be given several times: the profile's are added to ours.
LIST_OPTIONS = ("kubelet-arg", "kube-controller-manager-arg", "node-label", "node-taint", "disable", "tls-san")


@dataclass(frozen=True)
class NodeAddress:
    """The address by which other nodes reach this one, and the interface that has it."""

    address: str
    interface: str


def k3s_config(settings: NodeSettings, paths: Paths, node: NodeAddress | None = None) -> dict[str, Any]:
    """K3s' config.yaml. `k3s_config` of the profile is added, and wins over what is chosen here.

    `node` is the address found for a node whose settings don't name one, and the interface for its pods' network.
    """
    ours: dict[str, Any] = {
        "data-dir": DATA,
        "container-runtime-endpoint": "unix:///run/containerd/containerd.sock",
        # The default of volume-plugin-dir is below /usr, which is read-only.
        "kubelet-arg": ["cgroup-driver=systemd", f"volume-plugin-dir={paths.plugins}"],
        "node-name": settings.node_name,
        "node-label": [f"{key}={value}" for key, value in settings.labels.items()],
        "node-taint": list(settings.taints),
        "token": settings.token,
        "node-ip": node.address if node else settings.node_ip,
        "flannel-iface": node.interface if node else None,
        "resolv-conf": paths.resolv_conf,
    }
    if settings.role == "server":
        ours |= {
            "advertise-address": settings.advertise_address,
            "disable": list(settings.disable),
            "kube-controller-manager-arg": [f"flex-volume-plugin-dir={paths.plugins}"],
            "tls-san": [STABLE_ADDRESS],
            "write-kubeconfig": f"{DATA}/admin.conf",
            "write-kubeconfig-mode": "0600",
        }
    else:
        ours["server"] = settings.server
    merged = ours | settings.config
    for key in LIST_OPTIONS:
        if key in ours and key in settings.config:
            merged[key] = [*ours[key], *settings.option_values(key)]
    return {key: value for key, value in merged.items() if value not in (None, [])}


def prepare_k3s(settings: NodeSettings, paths: Paths, *, running: bool = False) -> bool:
    """Make what K3s reads at its start. True if it must start again for its certificates.

    Those that a wrong clock has dated are repaired, but not while K3s is `running`. Raises `OSError` and `Problem`.
    """
    write_config(settings, paths)
    paths.plugins.mkdir(parents=True, exist_ok=True)
    # K3s would write it without a sync. After a power cut the server would reject a node with another password.
    if not (paths.node_password.is_file() and paths.node_password.read_text().strip()):
        write_text(paths.node_password, secrets.token_hex(16) + "\n", 0o600)
    found = list(certificates.certificates(paths))
    due, wrong = certificates.renewal_due(found, paths), certificates.useless(found, settings, paths)
    if wrong and not running:
        certificates.repair(wrong, paths)
    return due or bool(wrong)


def write_config(settings: NodeSettings, paths: Paths, node: NodeAddress | None = None) -> None:
    """Write the file that every K3s command reads without being told."""
    if settings.role == "server" and not settings.token and not {"token", "token-file"} & settings.config.keys():
        settings = replace(settings, token=server_token(paths))
    write_json(paths.rancher / "config.yaml", k3s_config(settings, paths, node), 0o600)


def sync_manifests(sources: list[Path], goal: Path) -> None:
    """Make the folder that K3s applies hold exactly `sources` of ours, beside what K3s itself puts there."""
    goal.mkdir(parents=True, exist_ok=True)
    wanted = {f"edge-{source.name}": source for source in sources}
    for old in goal.glob("edge-*"):
        if old.name not in wanted:
            old.unlink()
    for name, source in wanted.items():
        content = source.read_bytes()
        path = goal / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
