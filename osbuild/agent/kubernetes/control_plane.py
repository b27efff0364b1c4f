"""Arguments of the programs of the control plane, which run on a server node."""

from collections.abc import Sequence

from osbuild.agent.kubernetes import etcd
from osbuild.agent.kubernetes.kubelet_limits import CIPHER_SUITES
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.server_settings import ENDPOINT
from osbuild.shared.node_settings import API_PORT, NodeSettings

# kine's default parameters for SQLite (its pkg/drivers/sqlite). Without them, two writers get SQLITE_BUSY.
SQLITE_PARAMETERS = (
    "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
)

# K3s' options for the certificates of a database, and kine's flags.
TLS_FILES = {"datastore-cafile": "ca-file", "datastore-certfile": "cert-file", "datastore-keyfile": "key-file"}

KEPT_PODS = 1000  # pods that have ended; Kubernetes' own limit is 12500
# Controllers that such a node does not need: cloud routes and load balancers, dynamic resources, migrations.
IDLE_CONTROLLERS = (
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
)
# The minor version that introduced a controller. The controller manager does not start with an unknown name.
SINCE = {"podgroup-protection-controller": (1, 36), "resourcepoolstatusrequest-controller": (1, 36)}


def kine_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    """The arguments of kine, which may contain the password of a database."""
    common = [f"--listen-address=unix://{paths.socket}", "--metrics-bind-address=0"]
    if ENDPOINT in settings.config:
        files = [f"--{flag}={settings.option(name, '')}" for name, flag in TLS_FILES.items() if name in settings.config]
        return [f"--endpoint={settings.option(ENDPOINT, '')}", *common, *files]
    database = f"{paths.data}/server/db/state.db?{SQLITE_PARAMETERS}"
    return [f"--endpoint=sqlite://{database}", *common, "--datastore-max-idle-connections=4"]


def elects_leader(settings: NodeSettings) -> str:
    """Only one of several servers runs the controllers and the scheduler. A single server saves the writes."""
    return f"--leader-elect={'true' if settings.has_servers else 'false'}"


def leader_election(settings: NodeSettings) -> list[str]:
    """The arguments of controller manager and scheduler that choose a leader.

    A leader that cannot renew its Lease in time ends, and with it API server and etcd, which share its process. A slow
    server therefore has 30 s instead of Kubernetes' 10. Others take over 45 s after a leader has gone, instead of 15.
    """
    times = (("lease-duration", 45), ("renew-deadline", 30), ("retry-period", 5)) if settings.has_servers else ()
    return [elects_leader(settings), *(f"--leader-elect-{name}={seconds}s" for name, seconds in times)]


def apiserver_arguments(settings: NodeSettings, paths: Paths, extra: Sequence[str] = ()) -> list[str]:
    """The arguments; `extra` are further ones, without dashes, which entries of `config` override."""
    pki = paths.pki
    domain = settings.option("cluster-domain", "cluster.local")
    return [
        f"--advertise-address={settings.advertise_address}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={pki}/ca.crt",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--enable-priority-and-fairness=false",
        *(etcd.client_arguments(paths) if settings.uses_etcd else [f"--etcd-servers=unix://{paths.socket}"]),
        f"--kubelet-certificate-authority={pki}/ca.crt",
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
        f"--tls-cipher-suites={','.join(CIPHER_SUITES)}",
        f"--tls-private-key-file={pki}/apiserver.key",
        *(f"--{argument}" for argument in extra),
        *settings.option_arguments("kube-apiserver-arg"),
    ]


def controller_manager_arguments(settings: NodeSettings, paths: Paths, minor: tuple[int, ...]) -> list[str]:
    """The arguments for the minor version `minor`, such as (1, 36)."""
    controllers = ["*", *(f"-{name}" for name in IDLE_CONTROLLERS if SINCE.get(name, minor) <= minor)]
    controllers.append("token-cleaner-controller")  # removes join tokens that have expired
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
        *leader_election(settings),
        "--profiling=false",
        f"--root-ca-file={paths.pki}/ca.crt",
        "--secure-port=0",
        f"--service-account-private-key-file={paths.pki}/sa.key",
        f"--service-cluster-ip-range={settings.service_cidr}",
        f"--terminated-pod-gc-threshold={KEPT_PODS}",
        "--use-service-account-credentials=true",  # each controller has only its own rights
        *settings.option_arguments("kube-controller-manager-arg"),
    ]


def scheduler_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    return [
        f"--kubeconfig={paths.data}/scheduler.conf",
        *leader_election(settings),
        "--profiling=false",
        "--secure-port=0",
        *settings.option_arguments("kube-scheduler-arg"),
    ]


def load_balancer_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    """The arguments of our program for services of type LoadBalancer, which removes its addresses if it is off."""
    # Its own rights are those of the add-on `servicelb`, which a cluster without it does not have.
    return [f"{paths.data}/load-balancer.conf"] if settings.load_balancer else [f"{paths.data}/admin.conf", "off"]
