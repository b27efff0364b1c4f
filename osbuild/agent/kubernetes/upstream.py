"""The upstream distribution: arguments and configuration files of each of its programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes.settings import API_PORT, STABLE_ADDRESS, Settings

# kine's own parameters for SQLite (its pkg/drivers/sqlite): without them two writers meet SQLITE_BUSY.
DATASTORE = (
    "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
)

# Controllers for which such a node has no use: cloud routes and load balancers, dynamic resources, migrations.
IDLE_CONTROLLERS = (
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "service-cidr-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
)
# The minor version with which some of them came: a controller manager that does not know a name refuses to start.
SINCE = {"podgroup-protection-controller": (1, 36), "resourcepoolstatusrequest-controller": (1, 36)}

# Entries of `config`, named as in K3s, that this distribution takes too.
KNOWN = (
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


@dataclass(frozen=True)
class Paths:
    """Where things are, below `root` (`/` on a device)."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "var/lib/kubernetes"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

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


def extra(settings: Settings, key: str) -> list[str]:
    """Arguments from `config`, given without dashes as in K3s."""
    return [f"--{word.removeprefix('--')}" for word in settings.words(key)]


def kine(paths: Paths) -> list[str]:
    return [
        f"--endpoint=sqlite://{paths.data}/server/db/state.db?{DATASTORE}",
        f"--listen-address=unix://{paths.socket}",
        "--metrics-bind-address=0",
        "--datastore-max-idle-connections=4",
    ]


def apiserver(settings: Settings, paths: Paths) -> list[str]:
    pki = paths.pki
    domain = settings.word("cluster-domain", "cluster.local")
    return [
        f"--advertise-address={settings.advertise_address}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={pki}/ca.crt",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--enable-priority-and-fairness=false",
        f"--etcd-servers=unix://{paths.socket}",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        "--profiling=false",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--requestheader-allowed-names=front-proxy-client",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--secure-port={API_PORT}",
        f"--service-account-issuer=https://kubernetes.default.svc.{domain}",
        f"--service-account-key-file={pki}/sa.key",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-cluster-ip-range={settings.service_cidr}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        *extra(settings, "kube-apiserver-arg"),
    ]


def controller_manager(settings: Settings, paths: Paths, minor: tuple[int, ...]) -> list[str]:
    """For a release of the minor version `minor`, such as (1, 36)."""
    controllers = ["*", *(f"-{name}" for name in IDLE_CONTROLLERS if SINCE.get(name, minor) <= minor)]
    if settings.token:  # agents join by it: sign cluster-info, and forget tokens that are over
        controllers += ["bootstrap-signer-controller", "token-cleaner-controller"]
    return [
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={settings.cluster_cidr}",
        f"--cluster-signing-cert-file={paths.pki}/ca.crt",
        f"--cluster-signing-key-file={paths.pki}/ca.key",
        f"--controllers={','.join(controllers)}",
        f"--flex-volume-plugin-dir={paths.plugins}",
        "--kube-api-burst=100",
        "--kube-api-qps=60",
        f"--kubeconfig={paths.data}/controller-manager.conf",
        "--leader-elect=false",
        "--profiling=false",
        f"--root-ca-file={paths.pki}/ca.crt",
        "--secure-port=0",
        f"--service-account-private-key-file={paths.pki}/sa.key",
        f"--service-cluster-ip-range={settings.service_cidr}",
        # It holds the authority's key, so one identity with all rights gives nothing away, and saves the creation of
        # a service account and a token for each controller at every start.
        "--use-service-account-credentials=false",
        *extra(settings, "kube-controller-manager-arg"),
    ]


def scheduler(settings: Settings, paths: Paths) -> list[str]:
    return [
        f"--kubeconfig={paths.data}/scheduler.conf",
        "--leader-elect=false",
        "--profiling=false",
        "--secure-port=0",
        *extra(settings, "kube-scheduler-arg"),
    ]


def kubelet(settings: Settings, paths: Paths) -> list[str]:
    words = [
        f"--config={paths.run}/kubelet.json",
        f"--hostname-override={settings.node_name}",
        f"--kubeconfig={paths.data}/kubelet.conf",
        f"--root-dir={paths.kubelet}",
    ]
    if settings.role == "agent":
        words.append(f"--bootstrap-kubeconfig={paths.data}/bootstrap-kubelet.conf")
        words.append(f"--cert-dir={paths.kubelet}/pki")
    if settings.node_ip:
        words.append(f"--node-ip={settings.node_ip}")
    if settings.labels:
        words.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in settings.labels.items()))
    return words + extra(settings, "kubelet-arg")


def taint(text: str) -> dict[str, str]:
    """`key=value:effect` as the API has it."""
    left, _, effect = text.rpartition(":")
    key, _, value = left.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def kubelet_config(settings: Settings, paths: Paths) -> dict[str, Any]:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    resolved = paths.root / "run/systemd/resolve/resolv.conf"
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{paths.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "clusterDNS": [settings.cluster_dns],
        "clusterDomain": settings.word("cluster-domain", "cluster.local"),
        "containerRuntimeEndpoint": f"unix://{paths.containerd}",
        # As K3s has it: on a small disk Kubernetes' defaults evict pods while gigabytes are free.
        "evictionHard": {"imagefs.available": "5%", "nodefs.available": "5%", "memory.available": "50Mi"},
        "failSwapOn": False,
        # Without the stub resolver's 127.0.0.53, which is nothing inside a pod.
        "resolvConf": "/run/systemd/resolve/resolv.conf" if resolved.exists() else "/etc/resolv.conf",
        "registerWithTaints": [taint(text) for text in settings.taints],
        "rotateCertificates": settings.role == "agent",
        "volumePluginDir": str(paths.plugins),  # the default is below /usr, which is read-only
    }
    if settings.role == "server":
        config["tlsCertFile"] = f"{paths.pki}/kubelet.crt"
        config["tlsPrivateKeyFile"] = f"{paths.pki}/kubelet.key"
    return config


def proxy_config(settings: Settings, paths: Paths) -> dict[str, Any]:
    """KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{paths.data}/kube-proxy.conf"},
        "clusterCIDR": settings.cluster_cidr,
        "conntrack": {"maxPerCore": 0},  # 0: leave the kernel's own limit alone
        "healthzBindAddress": "127.0.0.1:10256",
        "hostnameOverride": settings.node_name,
        "mode": "nftables",
        "nodePortAddresses": ["0.0.0.0/0"],
    }


def cni_config(settings: Settings) -> dict[str, Any]:
    """Network of the pods on a server: one bridge, addresses out of the node's range (CNI specification 1.0.0)."""
    return {
        "cniVersion": "1.0.0",
        "name": "edge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",  # no container outlives a boot, so no address may either
                    "ranges": [[{"subnet": settings.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def addresses(settings: Settings, found: list[str]) -> list[str]:
    """Every address by which the API server may be called; `found` are those of the interfaces."""
    own = ["127.0.0.1", STABLE_ADDRESS, settings.api_service, settings.advertise_address, *found]
    return sorted({*own, *([settings.node_ip] if settings.node_ip else [])})


def pki_plan(settings: Settings, paths: Paths, found: list[str]) -> dict[str, Any]:
    """What `edge-pki` is to make on a server. Names as kubeadm's, so that its users feel at home."""
    domain = settings.word("cluster-domain", "cluster.local")
    names = ["localhost", settings.node_name, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append(f"kubernetes.default.svc.{domain}")
    reached = addresses(settings, found)
    for word in settings.words("tls-san"):
        (reached if word.replace(".", "").isdigit() or ":" in word else names).append(word)

    def client(path: str, user: str, *groups: str) -> dict[str, Any]:
        return {
            "path": str(paths.data / path),
            "authority": "ca",
            "server": f"https://127.0.0.1:{API_PORT}",
            "user": user,
            "organizations": list(groups),
        }

    return {
        "folder": str(paths.pki),
        "authorities": ["ca", "front-proxy-ca"],
        "keys": ["sa"],
        "certificates": [
            {
                "name": "apiserver",
                "authority": "ca",
                "common_name": "kube-apiserver",
                "server": True,
                "dns_names": sorted(set(names)),
                "addresses": sorted(set(reached)),
            },
            {
                "name": "apiserver-kubelet-client",
                "authority": "ca",
                "common_name": "kube-apiserver-kubelet-client",
                "organizations": ["system:masters"],
                "client": True,
            },
            {
                "name": "front-proxy-client",
                "authority": "front-proxy-ca",
                "common_name": "front-proxy-client",
                "client": True,
            },
            {
                "name": "kubelet",
                "authority": "ca",
                "common_name": f"system:node:{settings.node_name}",
                "organizations": ["system:nodes"],
                "server": True,
                "dns_names": [settings.node_name],
                "addresses": ["127.0.0.1", *([settings.node_ip] if settings.node_ip else [STABLE_ADDRESS])],
            },
        ],
        "kubeconfigs": [
            client("admin.conf", "admin", "system:masters"),
            client("controller-manager.conf", "system:kube-controller-manager", "system:masters"),
            client("scheduler.conf", "system:kube-scheduler"),
            client("kubelet.conf", f"system:node:{settings.node_name}", "system:nodes"),
            client("kube-proxy.conf", "system:kube-proxy"),
        ],
    }


def agent_proxy_kubeconfig(server: str, paths: Paths) -> str:
    """On an agent kube-proxy uses the kubelet's certificate, which the kubelet renews by itself."""
    certificate = f"{paths.kubelet}/pki/kubelet-client-current.pem"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "default", "cluster": {"server": server, "certificate-authority": f"{paths.pki}/ca.crt"}}
            ],
            "users": [{"name": "node", "user": {"client-certificate": certificate, "client-key": certificate}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "node"}}],
            "current-context": "default",
        },
        indent=2,
    )
