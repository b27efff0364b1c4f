"""`edge-agent kubernetes join`: before an agent's kubelet starts, find its cluster and get a certificate there.

The key of the first certificate is the node's identity: the server gives the name to no other key while the node exists
(programs/node/approve.go). The kubelet renews the certificate by itself; it is asked for again only where it has
expired, or where a wrong clock has made it useless.
"""

import base64
import ssl
import subprocess
import time
import urllib.error
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import join_protocol, kubelet, pki
from osbuild.agent.kubernetes.api import ApiServer, explain_failure
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import GIVEN_HINT, load_settings, write_json, write_text
from osbuild.shared.files import replace_link
from osbuild.shared.node_settings import NodeSettings

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
PROGRAM = "usr/lib/edge-osbuild/edge-node"
PAUSE = 3.0  # seconds between two questions
KEYS_HINT = "they are kept in /var/lib/kubernetes/pki and /var/lib/kubelet/pki"
REQUEST_PERIOD = 600  # seconds; after that a request that was denied is made again


class JoinDenied(ValueError):
    """The server has refused this node."""


def join_cluster(root: Path, patience: float) -> None:
    """Have credentials for the kubelet. Asks the server for `patience` seconds; raises `Problem` after that."""
    settings, paths = load_settings(root), Paths(root)
    assert settings.server is not None and settings.token is not None
    server = settings.server.rstrip("/")
    if not server.startswith("https://"):
        raise Problem(f"{server} does not start with https://", where="server", hint=GIVEN_HINT)
    if why := explain_unusable(settings, paths):
        print(f"joining the cluster: {why}", flush=True)
        deadline = time.monotonic() + patience
        while True:
            try:
                join_once(settings, paths, server)
                break
            except (OSError, ValueError) as error:
                if time.monotonic() > deadline or isinstance(error, JoinDenied):
                    hint = "is the token right, and can the server be reached from here?"
                    said = explain_failure(error) if isinstance(error, OSError) else str(error)
                    raise Problem(f"cannot join: {said}", where=server, hint=hint) from error
                time.sleep(PAUSE)
    # The server's address may have changed since.
    write_text(paths.data / "kubelet.conf", kubelet.kubeconfig(server, paths), 0o600)


def explain_unusable(settings: NodeSettings, paths: Paths) -> str:
    """Why the kubelet's credentials can't be used now; empty if they can."""
    try:
        run_edge_node(paths, "check", paths.authority, paths.credentials, settings.node_name)
        return ""
    except Problem as problem:
        return problem.message


def run_edge_node(paths: Paths, *words: str | Path) -> str:
    """Output of `edge-node`. Raises `Problem` with what it says."""
    command = [str(paths.root / PROGRAM), *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(done.stderr.strip() or f"edge-node ended with {done.returncode}", hint=KEYS_HINT)
    return done.stdout


def join_once(settings: NodeSettings, paths: Paths, server: str) -> None:
    """Find the cluster and get a certificate. Raises `OSError` and `ValueError` where that may work later."""
    assert settings.token is not None
    # The server is not known yet: its answer is trusted by its signature, and nothing that joins is sent before.
    unknown = ssl.create_default_context()
    unknown.check_hostname = False
    unknown.verify_mode = ssl.CERT_NONE
    salt, identifier = join_protocol.read_public(get_config_map(ApiServer(server, unknown), join_protocol.PUBLIC))
    keys = join_protocol.derive_keys(settings.token, salt)
    stranger = ApiServer(server, unknown, join_protocol.bearer_token(identifier, keys.discovery))
    try:
        found, joining = join_protocol.read_authority(keys, get_config_map(stranger, join_protocol.PRIVATE))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise ValueError("the server does not know this token") from error
        raise
    write_text(paths.authority, found)
    trusted = ssl.create_default_context(cadata=found)
    request_certificate(settings, paths, ApiServer(server, trusted, join_protocol.bearer_token(joining, keys.join)))


def get_config_map(api: ApiServer, place: tuple[str, str]) -> dict[str, Any]:
    """A ConfigMap. Raises `OSError` and `ValueError`."""
    answer = api.call("GET", f"/api/v1/namespaces/{place[0]}/configmaps/{place[1]}")
    if not isinstance(answer, dict):
        raise ValueError("the answer is not an object")
    return answer


def request_certificate(settings: NodeSettings, paths: Paths, api: ApiServer, patience: float = 30.0) -> None:
    """Ask for a certificate by the node's own key, and keep it. Raises `OSError`, `ValueError` and `Problem`."""
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
        if error.code != 409:  # it was asked for before
            raise
    end = time.monotonic() + patience
    while not (certificate := signed_certificate(api.call("GET", f"{REQUESTS}/{name}"))):
        if time.monotonic() > end:
            raise ValueError(f"the server has not signed {name} yet")
        time.sleep(1)
    store_credentials(paths, certificate + key.read_bytes())


def signed_certificate(found: dict[str, Any]) -> bytes | None:
    """The certificate in PEM, once it is there. Raises `JoinDenied`."""
    status = found.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") in ("Denied", "Failed"):
            raise JoinDenied(f"the server has refused this node: {condition.get('message')}")
    return base64.b64decode(status["certificate"]) if status.get("certificate") else None


def store_credentials(paths: Paths, pair: bytes) -> None:
    """Put the kubelet's certificate and key where it looks for them."""
    link = paths.credentials
    target = link.with_name("kubelet-client-joined.pem")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, pair.decode(), 0o600)
    replace_link(link, target)
