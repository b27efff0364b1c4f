"""K3s' options that the upstream distribution takes too."""

# Entries of `config`, named as in K3s, that this distribution takes too.
UPSTREAM_OPTIONS = (
    "advertise-address",
    "cluster-cidr",
    "cluster-dns",
    "cluster-domain",
    "kube-apiserver-arg",
    "kube-controller-manager-arg",
    "kube-proxy-arg",
    "kube-scheduler-arg",
    "kubelet-arg",
    "node-name",
    "service-cidr",
    "tls-san",
)
