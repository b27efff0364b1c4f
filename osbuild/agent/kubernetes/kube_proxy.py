"""Arguments and configuration of kube-proxy. On an agent node it uses the certificate of the kubelet."""

from typing import Any

from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.node_settings import NodeSettings


def kube_proxy_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    return [f"--config={paths.run}/kube-proxy.json", *settings.option_arguments("kube-proxy-arg")]


def kube_proxy_config(settings: NodeSettings, paths: Paths) -> dict[str, Any]:
    """KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)."""
    kubeconfig = str(paths.node_kubeconfig if settings.role == "agent" else paths.data / "kube-proxy.conf")
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": settings.cluster_cidr,
        "conntrack": {"maxPerCore": 0},  # 0: keep the limit of the kernel
        "healthzBindAddress": "127.0.0.1:10256",
        "hostnameOverride": settings.node_name,
        "mode": "nftables",
        "nodePortAddresses": ["::/0" if ":" in cidr else "0.0.0.0/0" for cidr in settings.cluster_cidr.split(",")],
    }
