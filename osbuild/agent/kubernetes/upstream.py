"""The upstream distribution: all that the units of its programs read."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.agent.kubernetes import controlplane, kubelet, network, pki, proxy, versions
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import Settings, write, write_arguments, write_json
from osbuild.agent.system import System

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


def prepare(settings: Settings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Files of a node of either role. True if keys or certificates are new. Raises `Problem`."""
    for unknown in sorted(settings.config.keys() - set(KNOWN)):
        print(f"config: the upstream distribution has nothing like `{unknown}`: not used")
    write_arguments(paths.run / "kubelet.env", kubelet.arguments(settings, paths))
    write_json(paths.run / "kubelet.json", kubelet.config(settings, paths))
    write_json(paths.run / "kube-proxy.json", proxy.config(settings, paths))
    write_arguments(paths.run / "kube-proxy.env", proxy.arguments(settings, paths))
    paths.plugins.mkdir(parents=True, exist_ok=True)
    if settings.role == "server":
        return server(settings, paths, manifests)
    assert settings.server is not None
    write(paths.data / "kube-proxy.conf", kubelet.kubeconfig(settings.server.rstrip("/"), paths), 0o600)
    return False


def server(settings: Settings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Files of the control plane. True if keys or certificates are new. Raises `Problem`."""
    plan = paths.run / "pki.json"
    write_json(plan, pki.plan(settings, paths, pki.local_addresses(settings)))
    changed = pki.make(paths.root, plan)
    release = versions.running(System(paths.root))
    minor = release.minor if release else max(controlplane.SINCE.values())
    for name, words in {
        "kine": controlplane.kine(paths),
        "kube-apiserver": controlplane.apiserver(settings, paths),
        "kube-controller-manager": controlplane.controller_manager(settings, paths, minor),
        "kube-scheduler": controlplane.scheduler(settings, paths),
    }.items():
        write_arguments(paths.run / f"{name}.env", words)
    write_json(paths.root / "etc/cni/net.d/10-edge.conflist", network.config(settings))
    (paths.data / "server/db").mkdir(parents=True, exist_ok=True, mode=0o700)
    if sources := [*dict.fromkeys(str(path.parent) for path in manifests)]:
        write_arguments(paths.run / "apply.env", [f"--filename={source}" for source in sources])
    joining = paths.run / "join.env"  # the units that let agents join look for it
    if settings.token:
        write_arguments(joining, ["approve", f"{paths.data}/controller-manager.conf", settings.node_name])
    else:
        joining.unlink(missing_ok=True)
    return changed
