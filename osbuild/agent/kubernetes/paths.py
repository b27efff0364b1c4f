"""Paths of Kubernetes' files on a node."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Paths below `root`, which is `/` on a device."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "var/lib/kubernetes"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

    @property
    def etcd(self) -> Path:
        """The data of the etcd member of a server."""
        return self.data / "server/db/etcd"

    @property
    def database(self) -> Path:
        """The arguments with which kine finds an external database; they contain a password."""
        return self.run / "datastore.json"

    @property
    def rotated_tokens(self) -> Path:
        """Join tokens that replace those of the settings."""
        return self.data / "rotated-tokens.json"

    @property
    def join_failure(self) -> Path:
        """Why this node has not joined its cluster in this boot."""
        return self.run / "join-failure.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, in a folder that everybody may enter; /etc/kubernetes/admin.conf names it."""
        return self.root / "run/kubernetes/admin.conf"

    @property
    def authority(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def credentials(self) -> Path:
        """Link to certificate and key of the kubelet of an agent node. The kubelet renews them."""
        return self.kubelet / "pki/kubelet-client-current.pem"

    @property
    def run(self) -> Path:
        return self.root / "run/edge-osbuild/kubernetes"

    @property
    def socket(self) -> Path:
        return self.root / "run/kine/kine.sock"

    @property
    def containerd(self) -> Path:
        return self.root / "run/containerd/containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.root / "var/lib/kubelet"

    @property
    def plugins(self) -> Path:
        return self.kubelet / "volume-plugins"

    @property
    def cni_config(self) -> Path:
        return self.root / "etc/cni/net.d/10-edge.conflist"

    @property
    def node_kubeconfig(self) -> Path:
        """The kubeconfig of the programs of an agent node: they use the proxy on the node."""
        return self.run / "node.conf"

    @property
    def local_api_authority(self) -> Path:
        """The certificate authority of the proxy on an agent node."""
        return self.run / "local-api.crt"

    @property
    def network_lease(self) -> Path:
        """The range of this node's pods, which `edge-network` stores for the next boot."""
        return self.data / "network.json"

    @property
    def resolved(self) -> bool:
        """Whether the image has systemd-resolved."""
        return (self.root / "usr/lib/systemd/system/systemd-resolved.service").exists()

    @property
    def resolved_servers(self) -> Path:
        """The name servers and search domains that systemd-resolved knows."""
        return self.root / "run/systemd/resolve/resolv.conf"

    @property
    def pod_resolv_conf(self) -> Path:
        """The resolv.conf for pods of an image with systemd-resolved, see `name_servers`."""
        return self.run / "resolv.conf"

    @property
    def resolv_conf(self) -> str:
        """The resolv.conf that the kubelet reads for each pod. Pods cannot reach a stub at 127.0.0.53."""
        return str(self.pod_resolv_conf) if self.resolved else "/etc/resolv.conf"

    @property
    def rancher(self) -> Path:
        """The folder in which every K3s command searches its configuration."""
        return self.root / "etc/rancher/k3s"

    @property
    def node_password(self) -> Path:
        return self.root / "etc/rancher/node/password"

    @property
    def audit_log(self) -> Path:
        return self.data / "server/logs/audit.log"

    @property
    def charts(self) -> Path:
        """Helm charts that a server offers at /static/charts."""
        return self.data / "server/static/charts"

    @property
    def encryption_key(self) -> Path:
        """The key with which the API server of the upstream distribution encrypts Secrets."""
        return self.pki / "secrets-encryption.json"

    @property
    def server_token(self) -> Path:
        """The token of a K3s server node whose profile does not set one."""
        return self.data / "server-token"


def is_k3s(root: Path) -> bool:
    """Whether the image has the K3s distribution."""
    return (root / "usr/bin/k3s").exists()
