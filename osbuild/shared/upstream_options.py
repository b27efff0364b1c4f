"""Entries of `kubernetes.config` that the upstream distribution supports. They have the names of K3s' options."""

UNIT_BREAKS = frozenset(" \t\r\n\"'\\")  # characters at which systemd would split or change an argument of a unit
FLANNEL_BACKENDS = ("vxlan", "host-gw", "wireguard-native", "none")
DATABASES = ("postgres://", "mysql://")  # of `datastore-endpoint`, as kine names them
UPSTREAM_OPTIONS = (
    "advertise-address",
    "cluster-cidr",
    "cluster-dns",
    "cluster-domain",
    "cluster-init",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-endpoint",
    "datastore-keyfile",
    "default-local-storage-path",
    "disable-network-policy",
    "etcd-disable-snapshots",
    "etcd-snapshot-dir",
    "etcd-snapshot-retention",
    "etcd-snapshot-schedule-cron",
    "flannel-backend",
    "flannel-external-ip",
    "flannel-iface",
    "kube-apiserver-arg",
    "kube-controller-manager-arg",
    "kube-proxy-arg",
    "kube-scheduler-arg",
    "kubelet-arg",
    "node-external-ip",
    "node-name",
    "protect-kernel-defaults",
    "secrets-encryption",
    "service-cidr",
    "tls-san",
    "write-kubeconfig-group",
    "write-kubeconfig-mode",
)
