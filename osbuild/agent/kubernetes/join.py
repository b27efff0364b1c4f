"""`edge-agent kubernetes join`: before an agent's first kubelet, find the cluster's authority by the token."""

import json
import ssl
import time
import urllib.request
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import tokens
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import GIVEN, load, write

INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
PAUSE = 3.0  # seconds between two questions


def ask(url: str) -> object:
    """The JSON at `url`. The server is not known yet: what it says is trusted only by its signature."""
    unknown = ssl.create_default_context()
    unknown.check_hostname = False
    unknown.verify_mode = ssl.CERT_NONE
    if not url.startswith("https://"):
        raise Problem(f"{url} does not start with https://", where="server", hint=GIVEN)
    with urllib.request.urlopen(url, timeout=10, context=unknown) as answer:
        return json.load(answer)


def join(root: Path, patience: float) -> None:
    """Write the kubelet's first credentials. Asks the server for `patience` seconds; raises `Problem` after that."""
    settings, paths = load(root), Paths(root)
    # With credentials from an earlier boot the server's address may still have changed, the authority not.
    assert settings.server is not None and settings.token is not None
    goal, authority = paths.data / "bootstrap-kubelet.conf", paths.pki / "ca.crt"
    server = settings.server.rstrip("/")
    deadline = time.monotonic() + patience
    while not authority.exists():
        try:
            info = ask(server + INFO)
            if not isinstance(info, dict):
                raise ValueError("the answer is not an object")
            write(authority, tokens.authority(settings.token, info))
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                hint = "is the token right, and can the server be reached from here?"
                raise Problem(f"cannot join: {error}", where=server, hint=hint) from error
            time.sleep(PAUSE)
    write(goal, tokens.bootstrap_kubeconfig(settings.token, server, str(authority)), 0o600)
