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
from osbuild.agent.kubernetes import kubelet, pki, tokens
from osbuild.agent.kubernetes.api import Api, reason
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import GIVEN, Settings, load, write, write_json
from osbuild.agent.system import flush

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
PROGRAM = "usr/lib/edge-osbuild/edge-node"
PAUSE = 3.0  # seconds between two questions
KEYS = "they are kept in /var/lib/kubernetes/pki and /var/lib/kubelet/pki"
TURN = 600  # seconds; after that a request that was denied is made again


class Denied(ValueError):
    """The server has refused this node."""


def join(root: Path, patience: float) -> None:
    """Have credentials for the kubelet. Asks the server for `patience` seconds; raises `Problem` after that."""
    settings, paths = load(root), Paths(root)
    assert settings.server is not None and settings.token is not None
    server = settings.server.rstrip("/")
    if not server.startswith("https://"):
        raise Problem(f"{server} does not start with https://", where="server", hint=GIVEN)
    if why := unusable(settings, paths):
        print(f"joining the cluster: {why}", flush=True)
        deadline = time.monotonic() + patience
        while True:
            try:
                ask(settings, paths, server)
                break
            except (OSError, ValueError) as error:
                if time.monotonic() > deadline or isinstance(error, Denied):
                    hint = "is the token right, and can the server be reached from here?"
                    said = reason(error) if isinstance(error, OSError) else str(error)
                    raise Problem(f"cannot join: {said}", where=server, hint=hint) from error
                time.sleep(PAUSE)
    # The server's address may have changed since.
    write(paths.data / "kubelet.conf", kubelet.kubeconfig(server, paths), 0o600)


def unusable(settings: Settings, paths: Paths) -> str:
    """Why the kubelet's credentials can't be used now; empty if they can."""
    try:
        run_program(paths, "check", paths.authority, paths.credentials, settings.node_name)
        return ""
    except Problem as problem:
        return problem.message


def run_program(paths: Paths, *words: str | Path) -> str:
    """Output of `edge-node`. Raises `Problem` with what it says."""
    command = [str(paths.root / PROGRAM), *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(done.stderr.strip() or f"edge-node ended with {done.returncode}", hint=KEYS)
    return done.stdout


def ask(settings: Settings, paths: Paths, server: str) -> None:
    """Find the cluster and get a certificate. Raises `OSError` and `ValueError` where that may work later."""
    assert settings.token is not None
    # The server is not known yet: its answer is trusted by its signature, and nothing that joins is sent before.
    unknown = ssl.create_default_context()
    unknown.check_hostname = False
    unknown.verify_mode = ssl.CERT_NONE
    salt, identifier = tokens.public(get(Api(server, unknown), tokens.PUBLIC))
    keys = tokens.stretch(settings.token, salt)
    stranger = Api(server, unknown, tokens.bearer(identifier, keys.discovery))
    try:
        found, joining = tokens.authority(keys, get(stranger, tokens.PRIVATE))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise ValueError("the server does not know this token") from error
        raise
    write(paths.authority, found)
    trusted = ssl.create_default_context(cadata=found)
    request(settings, paths, Api(server, trusted, tokens.bearer(joining, keys.join)))


def get(api: Api, place: tuple[str, str]) -> dict[str, Any]:
    """A ConfigMap. Raises `OSError` and `ValueError`."""
    answer = api.call("GET", f"/api/v1/namespaces/{place[0]}/configmaps/{place[1]}")
    if not isinstance(answer, dict):
        raise ValueError("the answer is not an object")
    return answer


def request(settings: Settings, paths: Paths, api: Api, patience: float = 30.0) -> None:
    """Ask for a certificate by the node's own key, and keep it. Raises `OSError`, `ValueError` and `Problem`."""
    key, plan = paths.pki / "node.key", paths.run / "pki.json"
    write_json(plan, {"folder": str(paths.pki), "keys": ["node"]})
    pki.make(paths.root, plan)
    text = run_program(paths, "request", key, settings.node_name)
    public = run_program(paths, "identity", key)
    name = f"edge-join-{settings.node_name[:100]}-{public[:12]}-{int(time.time()) // TURN}"
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
    while not (certificate := signed(api.call("GET", f"{REQUESTS}/{name}"))):
        if time.monotonic() > end:
            raise ValueError(f"the server has not signed {name} yet")
        time.sleep(1)
    store(paths, certificate + key.read_bytes())


def signed(found: dict[str, Any]) -> bytes | None:
    """The certificate in PEM, once it is there. Raises `Denied`."""
    status = found.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") in ("Denied", "Failed"):
            raise Denied(f"the server has refused this node: {condition.get('message')}")
    return base64.b64decode(status["certificate"]) if status.get("certificate") else None


def store(paths: Paths, pair: bytes) -> None:
    """Put the kubelet's certificate and key where it looks for them."""
    link = paths.credentials
    target = link.with_name("kubelet-client-joined.pem")
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, pair.decode(), 0o600)
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)
    flush(link.parent)
