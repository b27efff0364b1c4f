"""`edge-agent kubernetes join`: gets a client certificate for the kubelet of an agent node before it starts.

A server that joins others gets the keys of the cluster instead (`server_join`).

The key of the first certificate is the identity of the node: while the Node exists, the server signs no certificate
with this name for another key (programs/node/approve.go). The kubelet renews the certificate itself. A new one is
requested only if it has expired or is not valid because of a wrong clock.
"""

import base64
import subprocess
import time
import urllib.error
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import join_protocol, kubelet, pki, prepare, server_join
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.join_discovery import find_cluster
from osbuild.agent.kubernetes.join_failure import (
    FailureKind,
    JoinError,
    clear_failure,
    describe_failure,
    record_failure,
)
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import SETTINGS_HINT, load_settings, write_json, write_text
from osbuild.shared.files import replace_link
from osbuild.shared.node_settings import NodeSettings

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
PROGRAM = "usr/lib/edge-osbuild/edge-node"
PAUSE = 3.0  # seconds between two attempts
KEYS_HINT = "the keys are in /var/lib/kubernetes/pki and /var/lib/kubelet/pki"
REQUEST_PERIOD = 600  # seconds after which a denied request may be repeated under a new name


def join_cluster(root: Path, patience: float) -> None:
    """Get credentials for the kubelet unless they are valid. Retries for `patience` seconds. Raises `Problem`."""
    settings, paths = load_settings(root), Paths(root)
    server = (settings.server or "").rstrip("/")
    if settings.server and not server.startswith("https://"):
        raise Problem(f"{server} does not start with https://", where="server", hint=SETTINGS_HINT)
    joins_servers = settings.role == "server"
    attempt = server_join.join_once if joins_servers else join_once
    if reason := server_join.explain_missing(settings, paths) if joins_servers else explain_unusable(settings, paths):
        print(f"joining the cluster: {reason}", flush=True)
        deadline = time.monotonic() + patience
        while True:
            try:
                attempt(settings, paths, server)
                break
            except (OSError, ValueError) as error:
                failure = describe_failure(error, server or "its database")
                # Each reason is in the journal at once, and not repeated.
                if record_failure(paths, failure):
                    print(f"cannot join yet: {failure.message}", flush=True)
                if time.monotonic() > deadline or failure.kind == FailureKind.DENIED:
                    raise Problem(
                        f"cannot join: {failure.message}", where=server or "datastore-endpoint", hint=failure.hint
                    ) from error
                time.sleep(PAUSE)
    clear_failure(paths)
    if joins_servers:
        prepare.prepare_node(root)  # issues the certificates of this server
        return
    # The address of the server may have changed since the last boot.
    write_text(paths.data / "kubelet.conf", kubelet.kubeconfig(server, paths.authority, paths), 0o600)


def explain_unusable(settings: NodeSettings, paths: Paths) -> str:
    """Why the credentials of the kubelet are not valid now; empty if they are valid."""
    try:
        run_edge_node(paths, "check", paths.authority, paths.credentials, settings.node_name)
        return ""
    except Problem as problem:
        return problem.message


def run_edge_node(paths: Paths, *arguments: str | Path) -> str:
    """Run `edge-node` and return its output. Raises `Problem` with its error."""
    command = [str(paths.root / PROGRAM), *map(str, arguments)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Problem(result.stderr.strip() or f"edge-node: exit status {result.returncode}", hint=KEYS_HINT)
    return result.stdout


def join_once(settings: NodeSettings, paths: Paths, server: str) -> None:
    """Find the cluster and get a certificate. Raises `OSError` and `ValueError` for failures that may be temporary."""
    assert settings.join_token is not None
    cluster = find_cluster(server, settings.join_token, join_protocol.AGENTS)
    write_text(paths.authority, cluster.authority)
    request_certificate(settings, paths, cluster.api)


def request_certificate(settings: NodeSettings, paths: Paths, api: ApiServer, patience: float = 30.0) -> None:
    """Request a certificate for the node's key, and store it. Raises `OSError`, `ValueError` and `Problem`."""
    key, plan = paths.pki / "node.key", paths.run / "pki.json"
    write_json(plan, {"folder": str(paths.pki), "keys": ["node"]})
    pki.run_edge_pki(paths.root, plan)
    text = run_edge_node(paths, "request", key, settings.node_name)
    public = run_edge_node(paths, "identity", key)
    name = f"edge-join-{settings.node_name[:100]}-{public[:12]}-{int(time.time()) // REQUEST_PERIOD}"
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(text.encode()).decode(),
            "signerName": SIGNER,
            "usages": ["digital signature", "client auth"],
        },
    }
    try:
        api.call("POST", REQUESTS, body)
    except urllib.error.HTTPError as error:
        if error.code != 409:  # 409: the request exists already
            raise
    end = time.monotonic() + patience
    while not (certificate := signed_certificate(api.call("GET", f"{REQUESTS}/{name}"))):
        if time.monotonic() > end:
            raise ValueError(f"the server has not signed {name} yet")
        time.sleep(1)
    store_credentials(paths, certificate + key.read_bytes())


def signed_certificate(request: dict[str, Any]) -> bytes | None:
    """The signed certificate in PEM; None if it is not signed yet. Raises `JoinError`."""
    status = request.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") in ("Denied", "Failed"):
            message = f"the server has refused this node: {condition.get('message')}"
            raise JoinError(FailureKind.DENIED, message)
    return base64.b64decode(status["certificate"]) if status.get("certificate") else None


def store_credentials(paths: Paths, pair: bytes) -> None:
    """Store certificate and key (PEM) for the kubelet. Raises `OSError`."""
    link = paths.credentials
    target = link.with_name("kubelet-client-joined.pem")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, pair.decode(), 0o600)
    replace_link(link, target)
