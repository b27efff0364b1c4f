"""`edge-agent kubernetes tokens`: lets nodes join the cluster of this server node with the configured join tokens.

Objects for earlier and expired join tokens, and objects of earlier versions of this project, are removed.
"""

import base64
import datetime
import time
import urllib.error
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes import etcd, external_datastore, join_protocol, server_bundle
from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer, connect_api, quote_path
from osbuild.agent.kubernetes.join_protocol import JoinOffer, Purpose
from osbuild.agent.kubernetes.paths import Paths, is_k3s
from osbuild.agent.kubernetes.server_settings import ENDPOINT
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.kubernetes.token_files import read_password
from osbuild.shared.node_settings import NodeSettings

APPLY = "application/apply-patch+yaml"  # Kubernetes documentation, "Server-Side Apply"; JSON is YAML
SECRETS = "/api/v1/namespaces/kube-system/secrets"
REVOKED = f"{SECRETS}/edge-osbuild-revoked-tokens"
MOST_REVOKED = 4  # each costs a tenth of a second at a start
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
    if settings.role != "server" or is_k3s(root):
        return []
    api = connect_api(root, settings)
    objects = join_protocol.permanent_objects()
    if settings.join_token:
        objects.append(join_protocol.cluster_role_binding("bootstrap", "system:node-bootstrapper", join_protocol.GROUP))
    revoked = list_revoked(api) if settings.has_servers else {}
    stale = False
    for purpose, text in configured_tokens(settings):
        if is_revoked(text, revoked):
            stale = True
            print("the join token of this server was rotated on another one: put the new token into its seed")
        else:
            objects += join_protocol.join_objects(renew_offer(api, paths, purpose, text))
    apply_objects(api, objects)
    if ENDPOINT in settings.config and settings.token and not stale:
        external_datastore.publish_keys(settings, paths)
    if stale:  # what the other server has published is valid
        return []
    current_paths = {object_path(item) for item in objects}
    return [
        path for path in [*join_object_paths(api), *LEGACY] if path not in current_paths and delete_object(api, path)
    ]


def list_revoked(api: ApiServer) -> dict[str, str]:
    """Tokens that were rotated in a cluster with several servers: time and salt of each, with its check value."""
    data = (api.find(REVOKED) or {}).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace") for name, value in data.items()}


def is_revoked(text: str, revoked: Mapping[str, str]) -> bool:
    """Whether a configured token is one of those that were rotated. Raises `Problem`."""
    password = read_password(text, "kubernetes.token")
    return any(
        join_protocol.check_value(join_protocol.derive_keys(password, name.rpartition(".")[2])) == check
        for name, check in revoked.items()
    )


def revoke_token(api: ApiServer, text: str) -> None:
    """Record that a token is not valid any more, so that no other server offers it again. Raises `OSError`."""
    invitation, keys = join_protocol.make_invitation(read_password(text, "kubernetes.token"))
    earlier = sorted(list_revoked(api).items())[1 - MOST_REVOKED :]
    records = dict(earlier) | {f"{int(time.time()):012}.{invitation.salt}": join_protocol.check_value(keys)}
    data = {name: base64.b64encode(check.encode()).decode() for name, check in records.items()}
    metadata = {"name": REVOKED.rpartition("/")[2], "namespace": "kube-system"}
    apply_objects(api, [{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}])


def configured_tokens(settings: NodeSettings) -> Iterable[tuple[Purpose, str]]:
    """The purposes and tokens of a server node: its own for servers, and that of agent nodes."""
    if settings.join_token:
        yield join_protocol.AGENTS, settings.join_token
    if settings.token and settings.has_servers:
        yield join_protocol.SERVERS, settings.token


def renew_offer(api: ApiServer, paths: Paths, purpose: Purpose, text: str) -> JoinOffer:
    """What this server offers for a configured token, valid for a week. Raises `Problem` and `OSError`."""
    password = read_password(text, "kubernetes.token")
    stored = join_protocol.stored_invitation(
        password, find_config_map(api, purpose.public), find_config_map(api, purpose.private)
    )
    invitation, keys = stored or join_protocol.make_invitation(password)
    return JoinOffer(
        purpose=purpose,
        invitation=invitation,
        keys=keys,
        authority=paths.authority.read_text(),
        expires=datetime.datetime.now(datetime.UTC) + join_protocol.LIFETIME,
        bundle=server_bundle.seal_bundle(paths, keys.bundle) if purpose == join_protocol.SERVERS else "",
    )


def find_config_map(api: ApiServer, location: tuple[str, str]) -> dict[str, Any]:
    """The ConfigMap at (namespace, name); empty if it does not exist. Raises `OSError`."""
    return api.find(f"{PREFIXES['ConfigMap'].format(location[0])}/{location[1]}") or {}


def apply_objects(api: ApiServer, objects: Iterable[dict[str, Any]]) -> None:
    """Create or replace objects. Raises `OSError`."""
    for item in objects:
        api.call("PATCH", f"{object_path(item)}?fieldManager=edge-osbuild&force=true", item, kind=APPLY)


def label_server(root: Path) -> None:
    """Show the role of this server node in `kubectl get nodes`, with K3s' label.

    A kubelet may not set this label itself (Kubernetes documentation, "NodeRestriction"). Raises `Problem`, and
    `OSError` if the node is not registered yet.
    """
    settings = load_settings(root)
    metadata: dict[str, Any] = {"labels": {"node-role.kubernetes.io/control-plane": "true"}}
    if settings.uses_etcd and not is_k3s(root) and (member := etcd.read_member_name(Paths(root))):
        metadata["labels"][etcd.ROLE] = "true"
        metadata["annotations"] = {etcd.ANNOTATION: member}  # who deletes the Node removes the member
    path = f"/api/v1/nodes/{quote_path(settings.node_name)}"
    connect_api(root, settings).call("PATCH", path, {"metadata": metadata}, kind=MERGE_PATCH)


def object_path(item: dict[str, Any]) -> str:
    """The API path of an object."""
    metadata = item["metadata"]
    return f"{PREFIXES[item['kind']].format(metadata.get('namespace'))}/{quote_path(metadata['name'])}"


def join_object_paths(api: ApiServer, identifier: str | None = None) -> Iterable[str]:
    """API paths of the objects for joining, except those of created tokens that are valid. Raises `OSError`.

    With `identifier`, the paths of the objects of one created token.
    """
    items = list_bootstrap_tokens(api)
    valid = {label for item in items if (label := created_label(item))} if identifier is None else set()

    def chosen(item: dict[str, Any]) -> bool:
        return created_label(item) not in valid if identifier is None else created_label(item) == identifier

    for secret in items:
        groups = base64.b64decode((secret.get("data") or {}).get("auth-extra-groups", "")).decode(errors="replace")
        ours = join_protocol.LABEL in (secret["metadata"].get("labels") or {}) or groups == join_protocol.GROUP
        if ours and chosen(secret):
            yield f"{SECRETS}/{quote_path(secret['metadata']['name'])}"
    for namespace in ("kube-public", "kube-system"):
        for kind in ("ConfigMap", "Role", "RoleBinding"):
            folder = PREFIXES[kind].format(namespace)
            for item in api.call("GET", f"{folder}?labelSelector={quote_path(join_protocol.LABEL)}")["items"]:
                if chosen(item):
                    yield f"{folder}/{quote_path(item['metadata']['name'])}"
    if identifier is None:
        yield f"{RBAC}/clusterrolebindings/{quote_path('edge-osbuild:bootstrap')}"
        yield f"{SECRETS}/{join_protocol.BUNDLE[1]}"


def list_bootstrap_tokens(api: ApiServer) -> list[dict[str, Any]]:
    """The Secrets of all bootstrap tokens. Raises `OSError`."""
    items: list[dict[str, Any]] = api.call("GET", f"{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken")[
        "items"
    ]
    return items


def created_label(item: dict[str, Any]) -> str:
    """The id of the created token to which an object belongs; empty for other objects."""
    return str((item["metadata"].get("labels") or {}).get(join_protocol.LABEL, ""))


def delete_object(api: ApiServer, path: str) -> bool:
    """Delete an object. Returns whether it existed. Raises `OSError`."""
    try:
        api.call("DELETE", path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True
