"""The upstream distribution: the files that the units of its programs read."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.agent.kubernetes import (
    addons,
    charts,
    control_plane,
    etcd,
    kube_proxy,
    kubeconfig,
    kubelet,
    local_api,
    pki,
    pod_network,
    server_settings,
    token_files,
    versions,
)
from osbuild.agent.kubernetes.audit_log import write_audit_policy
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.pod_security import write_pod_security
from osbuild.agent.kubernetes.secrets_encryption import write_encryption
from osbuild.agent.kubernetes.settings import write_arguments, write_json, write_text
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.upstream_options import UPSTREAM_OPTIONS


def prepare_upstream(settings: NodeSettings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Write the files of a node. Returns whether keys or certificates are new. Raises `Problem`."""
    for unknown in sorted(settings.config.keys() - set(UPSTREAM_OPTIONS)):
        print(f"kubernetes.config: `{unknown}` has no effect, because the upstream distribution does not support it")
    write_json(paths.run / "kubelet.json", kubelet.kubelet_config(settings, paths), 0o600)
    write_json(paths.run / "kube-proxy.json", kube_proxy.kube_proxy_config(settings, paths))
    programs = {
        "kubelet": kubelet.kubelet_arguments(settings, paths),
        "kube-proxy": kube_proxy.kube_proxy_arguments(settings, paths),
    }
    if settings.role == "agent":
        programs["local-api"] = [str(local_api.write_local_api(settings, paths))]
        text = kubelet.kubeconfig(f"https://{local_api.LISTEN}", paths.local_api_authority, paths)
        write_text(paths.node_kubeconfig, text, 0o600)
    if network := pod_network.write_pod_network(settings, paths):
        programs["edge-network"] = [str(network)]
    write_json(paths.run / "node.json", {"programs": programs})
    paths.plugins.mkdir(parents=True, exist_ok=True)
    if settings.role == "server":
        return prepare_server(settings, paths, manifests)
    return False


def prepare_server(settings: NodeSettings, paths: Paths, manifests: Sequence[Path]) -> bool:
    """Write the files of the control plane. Returns whether keys or certificates are new. Raises `Problem`."""
    server_settings.check_servers(settings, paths)
    if server_settings.ENDPOINT in settings.config:
        write_json(paths.database, control_plane.kine_arguments(settings, paths), 0o600)
    joining = paths.run / "server-joins"  # the unit that joins has a condition on this file
    if server_settings.must_join(settings, paths):
        write_text(joining, "")
        return False
    joining.unlink(missing_ok=True)
    plan = paths.run / "pki.json"
    write_json(plan, pki.plan_pki(settings, paths, pki.local_addresses(settings)))
    changed = pki.run_edge_pki(paths.root, plan)
    kubeconfig.publish_kubeconfig(settings, paths)
    version = versions.running_version(System(paths.root))
    protection = [
        *write_audit_policy(paths),
        *write_pod_security(settings, paths),
        *write_encryption(settings, paths),
    ]
    charts_arguments = [f"static-charts={paths.charts}"] if settings.helm else []
    minor = version.minor if version else max(control_plane.SINCE.values())
    if settings.uses_etcd:
        programs = {"etcd": [str(etcd.write_etcd(settings, paths))]}
    else:
        programs = {"kine": control_plane.kine_arguments(settings, paths)}
    programs |= {
        "kube-apiserver": control_plane.apiserver_arguments(settings, paths, [*protection, *charts_arguments]),
        "kube-controller-manager": control_plane.controller_manager_arguments(settings, paths, minor),
        "kube-scheduler": control_plane.scheduler_arguments(settings, paths),
        "edge-load-balancer": control_plane.load_balancer_arguments(settings, paths),
    }
    if settings.helm:
        programs["helm-controller"] = charts.helm_controller_arguments(settings, paths)
    ready = str(paths.data / "admin.conf")
    write_json(paths.run / "server.json", {"programs": programs, "ready": ready}, 0o600)
    (paths.data / "server/db").mkdir(parents=True, exist_ok=True, mode=0o700)
    all_manifests = [*addons.write_addons(settings, paths), *manifests]
    sources = dict.fromkeys(str(path.parent) for path in all_manifests)
    write_arguments(paths.run / "apply.env", ["--server", settings.node_name, *sources])
    token_files.write_token_files(settings, paths)
    join_file = paths.run / "join.env"  # the units for joining have a condition on this file
    if settings.join_token:
        write_arguments(join_file, ["approve", f"{paths.data}/admin.conf", settings.node_name])
    else:
        join_file.unlink(missing_ok=True)
    return changed
