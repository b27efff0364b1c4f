"""`edge-agent kubernetes health` and `wait`: is this node, is its API server ready. Starts no other program."""

import base64
import json
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.settings import Settings, load

# Where a kubeconfig is, for the roles of either distribution; the first that exists.
KUBECONFIGS = {
    "server": ("etc/kubernetes/admin.conf",),
    "agent": ("var/lib/kubernetes/kubelet.conf", "var/lib/kubernetes/agent/kubelet.kubeconfig"),
}
KUBECONFIG = "edge-kubernetes-prepare.service or edge-kubernetes-join.service writes it: look at its journal"


def value(text: str, key: str) -> str | None:
    """The first value of `key` in a kubeconfig, which is JSON or block YAML with plain scalars."""
    found = re.search(rf'^\s*-?\s*"?{key}"?:\s*"?([^"\s,]+)', text, re.MULTILINE)
    return found[1] if found else None


def content(text: str, key: str) -> bytes:
    """What `key` names as a file, or `key`-data holds in base64."""
    if data := value(text, f"{key}-data"):
        return base64.b64decode(data)
    if path := value(text, key):
        return Path(path).read_bytes()
    raise Problem(f"the kubeconfig has no {key}", hint=KUBECONFIG)


def access(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The API server's address, and what its caller shows and trusts. Raises `OSError` or `Problem`."""
    text = kubeconfig.read_text()
    server = value(text, "server") or ""
    if not server.startswith("https://"):
        raise Problem("no https server", where=str(kubeconfig), hint=KUBECONFIG)
    context = ssl.create_default_context(cadata=content(text, "certificate-authority").decode())
    with tempfile.NamedTemporaryFile(prefix="edge-api-") as pair:  # mode 0600; ssl reads a client's key from files
        pair.write(content(text, "client-certificate") + b"\n" + content(text, "client-key"))
        pair.flush()
        context.load_cert_chain(pair.name)
    return server, context


def get(kubeconfig: Path, path: str) -> bytes:
    """What the API server has at `path`, with the kubeconfig's certificate. Raises `OSError` or `Problem`."""
    server, context = access(kubeconfig)
    with urllib.request.urlopen(server + path, timeout=10, context=context) as answer:
        return bytes(answer.read())


def judge(node: dict[str, Any], boot_id: str) -> str | None:
    """Why a Node object (API reference, core/v1) is not Ready in this boot; None if it is."""
    status = node.get("status", {})
    if status.get("nodeInfo", {}).get("bootID") != boot_id:
        return "the kubelet has not reported since this boot"  # what is there dates from before it
    for condition in status.get("conditions", []):
        if condition.get("type") == "Ready":
            if condition.get("status") == "True":
                return None
            return f"not Ready: {condition.get('message') or condition.get('reason') or 'no reason given'}"
    return "not Ready: the kubelet has given no condition yet"


def why_not(root: Path, settings: Settings | None = None) -> str | None:
    """Why this node is not Ready; None if it is."""
    settings = settings or load(root)
    if settings.role == "none":
        return None
    kubeconfig = next((root / name for name in KUBECONFIGS[settings.role] if (root / name).exists()), None)
    if kubeconfig is None:
        return "no kubeconfig yet: " + (
            "keys have not been made" if settings.role == "server" else "the node has not joined its cluster"
        )
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        return judge(json.loads(get(kubeconfig, f"/api/v1/nodes/{settings.node_name}")), boot_id)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return f"the cluster has no node {settings.node_name} yet"
        return f"the API server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"the API server does not answer: {error.reason}"
    except OSError as error:
        return f"the API server does not answer: {error}"


def await_ready(root: Path, patience: float, pause: float = 1.0) -> str | None:
    """Why this node is not Ready after `patience` seconds; None as soon as it is."""
    settings, end = load(root), time.monotonic() + patience
    while (reason := why_not(root, settings)) and time.monotonic() < end:
        time.sleep(pause)
    return reason


def wait(root: Path, pause: float = 1.0) -> None:
    """Return once the API server of this node says that it is ready.

    The controller manager gives a new API server 10 s and ends then, and others ask again only after a while where a
    role is not there yet: on a slow processor it is quicker not to start them before they can work.
    """
    kubeconfig = root / KUBECONFIGS["server"][0]
    while True:
        try:
            if get(kubeconfig, "/readyz") == b"ok":
                return
        except (OSError, Problem):
            pass  # it is not up, or its keys are not there
        time.sleep(pause)
