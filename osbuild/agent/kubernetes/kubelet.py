"""Arguments and configuration of the kubelet, and its kubeconfig on an agent node."""

import json
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes.kubelet_limits import limit_settings
from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.node_settings import NodeSettings


def kubelet_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    arguments = [
        f"--config={paths.run}/kubelet.json",
        f"--hostname-override={settings.node_name}",
        f"--kubeconfig={node_kubeconfig(settings, paths)}",
        f"--root-dir={paths.kubelet}",
    ]
    if settings.role == "agent":
        arguments.append(f"--cert-dir={paths.kubelet}/pki")
    if settings.node_ip:
        arguments.append(f"--node-ip={settings.node_ip}")
    if settings.labels:
        arguments.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in settings.labels.items()))
    return arguments + settings.option_arguments("kubelet-arg")


def node_kubeconfig(settings: NodeSettings, paths: Paths) -> Path:
    """The kubeconfig of kubelet and pod network: on an agent node, that of the proxy on the node."""
    return paths.node_kubeconfig if settings.role == "agent" else paths.data / "kubelet.conf"


def kubeconfig(server: str, authority: Path, paths: Paths) -> str:
    """The kubeconfig of an agent node for an API server, whose certificate is verified with an authority."""
    pair = str(paths.credentials)
    cluster = {"server": server, "certificate-authority": str(authority)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": cluster}],
            "users": [{"name": "node", "user": {"client-certificate": pair, "client-key": pair}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "node"}}],
            "current-context": "default",
        },
        indent=2,
    )


def parse_taint(text: str) -> dict[str, str]:
    """Convert `key=value:effect` to a Taint of the API."""
    left, _, effect = text.rpartition(":")
    key, _, value = left.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def kubelet_config(settings: NodeSettings, paths: Paths) -> dict[str, Any]:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    config: dict[str, Any] = {
        **limit_settings(paths),
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{paths.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "clusterDNS": settings.cluster_dns,
        "clusterDomain": settings.option("cluster-domain", "cluster.local"),
        "containerRuntimeEndpoint": f"unix://{paths.containerd}",
        "failSwapOn": False,
        # The kubelet refuses to start if a setting of the kernel differs, instead of changing it.
        "protectKernelDefaults": settings.flag("protect-kernel-defaults", default=True),
        "resolvConf": paths.resolv_conf,
        "registerWithTaints": [parse_taint(text) for text in settings.taints],
        "rotateCertificates": settings.role == "agent",
        # The server approves the request (`edge-node approve`), so that others can verify this kubelet.
        "serverTLSBootstrap": settings.role == "agent",
        "volumePluginDir": str(paths.plugins),  # the default is below /usr, which is read-only
    }
    if settings.role == "server":
        config["tlsCertFile"] = f"{paths.pki}/kubelet.crt"
        config["tlsPrivateKeyFile"] = f"{paths.pki}/kubelet.key"
    return config
