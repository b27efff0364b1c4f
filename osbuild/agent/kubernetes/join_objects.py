"""`edge-agent kubernetes tokens`: lets agent nodes join the cluster of this server node with the configured join token.

Objects for earlier join tokens, and objects of earlier versions of this project, are removed.
"""

import base64
import datetime
import urllib.error
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import join_protocol
from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer, connect_api, quote_path
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import load_settings, write_json
from osbuild.agent.system import System

APPLY = "application/apply-patch+yaml"  # Kubernetes documentation, "Server-Side Apply"; JSON is YAML
SECRETS = "/api/v1/namespaces/kube-system/secrets"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PREFIXES = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Role": f"{RBAC}/namespaces/{{}}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{{}}/rolebindings",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
}
# Objects of earlier versions: a signature that everyone could read, and the right to get a certificate of any node.
LEGACY = (
    "/api/v1/namespaces/kube-public/configmaps/cluster-info",
    f"{RBAC}/namespaces/kube-public/rolebindings/edge-osbuild:cluster-info",
    f"{RBAC}/namespaces/kube-public/roles/edge-osbuild:cluster-info",
    f"{RBAC}/clusterrolebindings/edge-osbuild:approve-first",
)


def refresh_join_objects(root: Path) -> list[str]:
    """Create the objects for joining, or remove them if no token is configured. Returns the paths of removed objects.

    Only for server nodes of the upstream distribution. Raises `Problem` and `OSError`.
    """
    settings, paths = load_settings(root), Paths(root)
    if settings.role != "server" or (root / "usr/bin/k3s").exists():
        return []
    api = connect_api(root, settings)
    objects = join_protocol.permanent_objects()
    if settings.token:
        invitation, keys = join_protocol.make_invitation(
            settings.token, System(root).json(f"/{paths.invitation.relative_to(root)}")
        )
        write_json(paths.invitation, asdict(invitation), 0o600)
        authority = (paths.pki / "ca.crt").read_text()
        objects += join_protocol.join_objects(invitation, keys, authority, datetime.datetime.now(datetime.UTC))
    else:
        paths.invitation.unlink(missing_ok=True)
    for item in objects:
        api.call("PATCH", f"{object_path(item)}?fieldManager=edge-osbuild&force=true", item, kind=APPLY)
    current_paths = {object_path(item) for item in objects}
    return [
        path for path in [*join_object_paths(api), *LEGACY] if path not in current_paths and delete_object(api, path)
    ]


def label_server(root: Path) -> None:
    """Show the role of this server node in `kubectl get nodes`, with K3s' label.

    A kubelet may not set this label itself (Kubernetes documentation, "NodeRestriction"). Raises `Problem`, and
    `OSError` if the node is not registered yet.
    """
    settings = load_settings(root)
    labels = {"node-role.kubernetes.io/control-plane": "true"}
    path = f"/api/v1/nodes/{quote_path(settings.node_name)}"
    connect_api(root, settings).call("PATCH", path, {"metadata": {"labels": labels}}, kind=MERGE_PATCH)


def object_path(item: dict[str, Any]) -> str:
    """The API path of an object."""
    metadata = item["metadata"]
    return f"{PREFIXES[item['kind']].format(metadata.get('namespace'))}/{quote_path(metadata['name'])}"


def join_object_paths(api: ApiServer) -> Iterable[str]:
    """API paths of all objects for joining, of the current and earlier configurations. Raises `OSError`."""
    for secret in api.call("GET", f"{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken")["items"]:
        groups = base64.b64decode((secret.get("data") or {}).get("auth-extra-groups", "")).decode(errors="replace")
        if join_protocol.LABEL in (secret["metadata"].get("labels") or {}) or groups == join_protocol.GROUP:
            yield f"{SECRETS}/{quote_path(secret['metadata']['name'])}"
    for namespace, name in (join_protocol.PUBLIC, join_protocol.PRIVATE):
        for kind in ("ConfigMap", "Role", "RoleBinding"):
            yield f"{PREFIXES[kind].format(namespace)}/{name}"
    yield f"{RBAC}/clusterrolebindings/{quote_path('edge-osbuild:bootstrap')}"


def delete_object(api: ApiServer, path: str) -> bool:
    """Delete an object. Returns whether it existed. Raises `OSError`."""
    try:
        api.call("DELETE", path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True
