"""The options of K3s' server and agent for its configuration file (K3s documentation, CLI Reference)."""

from osbuild.config.scalars import find_nearest

RESERVED = {
    "token": "`kubernetes.token`, a reference",
    "token-file": "`kubernetes.token`, a reference",
    "agent-token": "`kubernetes.agent_token`, a reference",
    "agent-token-file": "`kubernetes.agent_token`, a reference",
    "server": "`kubernetes.server`",
    "node-label": "`kubernetes.labels`",
    "node-taint": "`kubernetes.taints`",
    "node-ip": "`kubernetes.node_ip`",
    "node-name": "`hostname`",
    "with-node-id": "`hostname`",
    "disable": "`kubernetes.disable`",
    "config": "nothing: the image sets it",
    "data-dir": "nothing: the image sets it",
    "container-runtime-endpoint": "nothing: the image has its own containerd",
    "docker": "nothing: the image has its own containerd",
    "snapshotter": "nothing: the image has its own containerd",
    "private-registry": "`kubernetes.registries`",
    "default-runtime": "nothing: the image has its own containerd",
    "write-kubeconfig": "/etc/kubernetes/admin.conf, which the image's own checks read too",
    "rootless": "nothing: K3s runs as root",
}
"""Entries that another key or the image sets: name -> what to use instead."""

COMPONENTS = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes")
KNOWN = frozenset(
    [
        *RESERVED,
        # listener and client
        "bind-address", "https-listen-port", "supervisor-port", "apiserver-port", "apiserver-bind-address",
        "advertise-address", "advertise-port", "tls-san", "tls-san-security",
        "write-kubeconfig-mode", "write-kubeconfig-group", "helm-job-image", "enable-pprof", "supervisor-metrics",
        # networking
        "cluster-cidr", "service-cidr", "service-node-port-range", "cluster-dns", "cluster-domain", "flannel-backend",
        "flannel-ipv6-masq", "flannel-external-ip", "flannel-iface", "flannel-conf", "flannel-cni-conf",
        "egress-selector-mode", "servicelb-namespace", "multi-cluster-cidr", "node-external-ip", "node-internal-dns",
        "node-external-dns", "resolv-conf", "vpn-auth", "vpn-auth-file",
        # cluster and datastore
        "cluster-init", "cluster-reset", "cluster-reset-restore-path",
        "datastore-endpoint", "datastore-cafile", "datastore-certfile", "datastore-keyfile", "kine-tls",
        "secrets-encryption", "secrets-encryption-provider", "etcd-expose-metrics", "etcd-disable-snapshots",
        "etcd-snapshot-name", "etcd-snapshot-schedule-cron", "etcd-snapshot-reconcile-interval",
        "etcd-snapshot-retention", "etcd-snapshot-dir", "etcd-snapshot-compress", "etcd-s3", "etcd-s3-endpoint",
        "etcd-s3-endpoint-ca", "etcd-s3-skip-ssl-verify", "etcd-s3-access-key", "etcd-s3-secret-key",
        "etcd-s3-session-token", "etcd-s3-bucket", "etcd-s3-bucket-lookup-type", "etcd-s3-region", "etcd-s3-folder",
        "etcd-s3-proxy", "etcd-s3-config-secret", "etcd-s3-insecure", "etcd-s3-timeout", "etcd-s3-retention",
        # components
        "disable-scheduler", "disable-cloud-controller", "disable-kube-proxy", "disable-network-policy",
        "disable-helm-controller", "disable-agent", "disable-apiserver", "disable-controller-manager", "disable-etcd",
        "disable-apiserver-lb", "disable-default-registry-endpoint", "default-local-storage-path",
        "system-default-registry", "embedded-registry", "airgap-extra-registry",
        # node and flags
        "image-credential-provider-bin-dir", "image-credential-provider-config", "image-service-endpoint",
        "pause-image", "nonroot-devices", "protect-kernel-defaults", "selinux", "lb-server-port", "prefer-bundled-bin",
        "kubelet-arg", "kube-proxy-arg", "kube-apiserver-arg", "kube-scheduler-arg", "kube-controller-manager-arg",
        "kube-cloud-controller-manager-arg", "etcd-arg", "debug", "v", "vmodule", "log", "alsologtostderr",
    ]
)  # fmt: skip


def suggest_option(name: str) -> str | None:
    """Return the option that `name` probably means; None if it resembles none, because a later K3s may have it."""
    plain = name.replace("_", "-").lower()
    if plain in KNOWN:
        return plain
    return find_nearest(plain, KNOWN, cutoff=0.85) if len(plain) > 3 else None
