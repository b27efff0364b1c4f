"""The upstream distribution: the files that the units of its programs read."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.agent.kubernetes import control_plane, kube_proxy, kubelet, pki, pod_network, versions
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_arguments, write_json, write_text
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.upstream_options import UPSTREAM_OPTIONS


def prepare_upstream(settings: NodeSettings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Write the files of a node. Returns whether keys or certificates are new. Raises `Problem`."""
    for unknown in sorted(settings.config.keys() - set(UPSTREAM_OPTIONS)):
        print(f"kubernetes.config: `{unknown}` has no effect, because the upstream distribution does not support it")
    write_arguments(paths.run / "kubelet.env", kubelet.kubelet_arguments(settings, paths))
    write_json(paths.run / "kubelet.json", kubelet.kubelet_config(settings, paths))
    write_json(paths.run / "kube-proxy.json", kube_proxy.kube_proxy_config(settings, paths))
    write_arguments(paths.run / "kube-proxy.env", kube_proxy.kube_proxy_arguments(settings, paths))
    paths.plugins.mkdir(parents=True, exist_ok=True)
    if settings.role == "server":
        return prepare_server(settings, paths, manifests)
    assert settings.server is not None
    write_text(paths.data / "kube-proxy.conf", kubelet.kubeconfig(settings.server.rstrip("/"), paths), 0o600)
    return False


def prepare_server(settings: NodeSettings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Write the files of the control plane. Returns whether keys or certificates are new. Raises `Problem`."""
    plan = paths.run / "pki.json"
    write_json(plan, pki.plan_pki(settings, paths, pki.local_addresses(settings)))
    changed = pki.run_edge_pki(paths.root, plan)
    version = versions.running_version(System(paths.root))
    minor = version.minor if version else max(control_plane.SINCE.values())
    for name, arguments in {
        "kine": control_plane.kine_arguments(paths),
        "kube-apiserver": control_plane.apiserver_arguments(settings, paths),
        "kube-controller-manager": control_plane.controller_manager_arguments(settings, paths, minor),
        "kube-scheduler": control_plane.scheduler_arguments(settings, paths),
    }.items():
        write_arguments(paths.run / f"{name}.env", arguments)
    write_json(paths.root / "etc/cni/net.d/10-edge.conflist", pod_network.cni_config(settings))
    (paths.data / "server/db").mkdir(parents=True, exist_ok=True, mode=0o700)
    if sources := [*dict.fromkeys(str(path.parent) for path in manifests)]:
        write_arguments(paths.run / "apply.env", [f"--filename={source}" for source in sources])
    join_file = paths.run / "join.env"  # the units for joining have a condition on this file
    if settings.token:
        write_arguments(join_file, ["approve", f"{paths.data}/controller-manager.conf", settings.node_name])
    else:
        join_file.unlink(missing_ok=True)
    return changed
