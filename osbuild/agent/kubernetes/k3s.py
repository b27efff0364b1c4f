"""The K3s distribution: configuration file, node password and manifests."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import certificates, kubeconfig
from osbuild.agent.kubernetes.audit_log import write_audit_policy
from osbuild.agent.kubernetes.control_plane import KEPT_PODS
from osbuild.agent.kubernetes.k3s_token import read_secret, server_token
from osbuild.agent.kubernetes.kubelet_limits import limit_flags
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.pod_security import write_pod_security
from osbuild.agent.kubernetes.secrets_encryption import OPTION, encrypts_k3s
from osbuild.agent.kubernetes.settings import write_json, write_text
from osbuild.shared.components import components_left_out
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import STABLE_ADDRESS, NodeSettings

DATA = "/var/lib/kubernetes"
# Options with several values: the values of the profile are added to the defaults.
LIST_OPTIONS = (
    "kubelet-arg", "kube-apiserver-arg", "kube-controller-manager-arg", "node-label", "node-taint", "disable",
    "tls-san",
)  # fmt: skip


@dataclass(frozen=True)
class NodeAddress:
    """The address by which other nodes reach this one, and the interface that has it."""

    address: str
    interface: str


def k3s_config(
    settings: NodeSettings, paths: Paths, node: NodeAddress | None = None, api_arguments: Sequence[str] = ()
) -> dict[str, Any]:
    """The contents of K3s' config.yaml. Options in the profile's `kubernetes.config` override the defaults.

    `node` is the detected address of this node, and the interface for the pod network. `api_arguments` are those of
    the API server.
    """
    defaults: dict[str, Any] = {
        "data-dir": DATA,
        "container-runtime-endpoint": "unix:///run/containerd/containerd.sock",
        # The default of volume-plugin-dir is below /usr, which is read-only.
        "kubelet-arg": ["cgroup-driver=systemd", f"volume-plugin-dir={paths.plugins}", *limit_flags(paths)],
        "node-name": settings.node_name,
        "node-label": [f"{key}={value}" for key, value in settings.labels.items()],
        "node-taint": list(settings.taints),
        "token": settings.token if settings.role == "server" else settings.join_token,
        "protect-kernel-defaults": True,
        "node-ip": node.address if node else settings.node_ip,
        "flannel-iface": node.interface if node else None,
        "resolv-conf": paths.resolv_conf,
    }
    if settings.role == "server":
        left_out = components_left_out(settings)
        defaults |= {
            "advertise-address": settings.advertise_address,
            "agent-token": settings.agent_token,
            "disable": list(left_out),
            # K3s' Traefik is a chart, too.
            "disable-helm-controller": True if not settings.helm and "traefik" in left_out else None,
            "kube-apiserver-arg": list(api_arguments),
            "kube-controller-manager-arg": [
                f"flex-volume-plugin-dir={paths.plugins}",
                f"terminated-pod-gc-threshold={KEPT_PODS}",
            ],
            "tls-san": [STABLE_ADDRESS],
            "write-kubeconfig": "/run/kubernetes/admin.conf",
            "write-kubeconfig-group": kubeconfig.GROUP,
            "write-kubeconfig-mode": kubeconfig.MODE,
        }
    defaults["server"] = settings.server  # also of a server that joins another one
    merged = defaults | settings.config
    for key in LIST_OPTIONS:
        if key in defaults and key in settings.config:
            merged[key] = [*defaults[key], *settings.option_values(key)]
    return {key: value for key, value in merged.items() if value not in (None, [])}


def prepare_k3s(settings: NodeSettings, paths: Paths, *, running: bool = False) -> bool:
    """Write the files that K3s reads when it starts. Returns whether K3s has to restart because of certificates.

    Certificates with wrong dates are issued again, except while K3s is `running`. Raises `OSError` and `Problem`.
    """
    if not running:  # K3s reads it at its start, with the address that is found just before
        write_config(settings, paths)
    paths.plugins.mkdir(parents=True, exist_ok=True)
    # K3s itself would write the password without fsync(2). If a power cut lost it, the server would reject the node.
    if not read_secret(paths.node_password):
        write_text(paths.node_password, secrets.token_hex(16) + "\n", 0o600)
    all_certificates = list(certificates.read_certificates(paths))
    due = certificates.renewal_due(all_certificates, paths)
    misdated = certificates.find_misdated(all_certificates, settings, paths)
    if misdated and not running:
        certificates.reissue_certificates(misdated, paths)
    return due or bool(misdated)


def write_config(settings: NodeSettings, paths: Paths, node: NodeAddress | None = None) -> None:
    """Write the configuration file that every K3s command reads by default."""
    if settings.role == "server" and not settings.token and not {"token", "token-file"} & settings.config.keys():
        settings = replace(settings, token=server_token(paths))
    if settings.role != "server":
        write_json(paths.rancher / "config.yaml", k3s_config(settings, paths, node), 0o600)
        return
    api_arguments = [*write_audit_policy(paths), *write_pod_security(settings, paths)]
    config = k3s_config(settings, paths, node, api_arguments) | {OPTION: encrypts_k3s(settings, paths)}
    write_json(paths.rancher / "config.yaml", config, 0o600)


def sync_manifests(sources: list[Path], folder: Path) -> None:
    """Copy `sources` to the manifest folder of K3s as `edge-*`, and remove other `edge-*` files there."""
    folder.mkdir(parents=True, exist_ok=True)
    source_by_name = {f"edge-{source.name}": source for source in sources}
    for existing in folder.glob("edge-*"):
        if existing.name not in source_by_name:
            existing.unlink()
    for name, source in source_by_name.items():
        content = read_file(source)
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
