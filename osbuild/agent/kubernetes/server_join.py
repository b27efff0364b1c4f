"""`edge-agent kubernetes join` on a server: gets the keys of the cluster whose servers it joins."""

import base64
import urllib.error

from osbuild.agent.kubernetes import external_datastore, join_protocol, server_bundle
from osbuild.agent.kubernetes.join_discovery import find_cluster
from osbuild.agent.kubernetes.join_failure import FailureKind, JoinError
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.server_settings import must_join
from osbuild.agent.kubernetes.token_files import read_password
from osbuild.shared.node_settings import NodeSettings


def explain_missing(settings: NodeSettings, paths: Paths) -> str:
    """Why a server has to join; empty if it has the keys of its cluster."""
    return "this server has no keys of the cluster yet" if must_join(settings, paths) else ""


def join_once(settings: NodeSettings, paths: Paths, server: str) -> None:
    """Get the keys of the cluster, and store them. Raises `OSError`, `ValueError` and `Problem`."""
    if not settings.server:
        external_datastore.get_keys(settings, paths)
        return
    assert settings.token is not None
    read_password(settings.token, "kubernetes.token")  # a created token is for agent nodes
    found = find_cluster(server, settings.token, join_protocol.SERVERS)
    namespace, name = join_protocol.BUNDLE
    try:
        secret = found.api.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    except urllib.error.HTTPError as error:
        if error.code not in (403, 404):
            raise
        raise JoinError(FailureKind.TOKEN, "the server does not offer the keys of its cluster yet") from error
    sealed = base64.b64decode((secret.get("data") or {}).get(join_protocol.SEALED, "")).decode(errors="replace")
    files = server_bundle.open_bundle(paths, found.keys.bundle, sealed)
    if files["ca.crt"].strip() != found.authority.strip():
        raise JoinError(FailureKind.AUTHORITY, "the keys of the cluster are not those of its certificate authority")
    server_bundle.store_bundle(paths, files)
