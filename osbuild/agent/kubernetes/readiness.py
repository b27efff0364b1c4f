"""Checks whether this node and its API server are ready, without starting other programs."""

import base64
import http.client
import json
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.paths import is_k3s
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import NodeSettings

# Paths of the kubeconfig per role. The distributions have different paths; the first existing file is used.
KUBECONFIGS = {
    "server": ("etc/kubernetes/admin.conf",),
    "agent": ("var/lib/kubernetes/kubelet.conf", "var/lib/kubernetes/agent/kubelet.kubeconfig"),
}
# The folder of K3s' CNI configuration, and the file that flannel's CNI plugin reads (its README, `subnetFile`).
FLANNEL_FOLDER = "var/lib/kubernetes/agent/etc/cni/net.d"
FLANNEL_CONFIG = "10-flannel.conflist"
FLANNEL_SUBNET = "run/flannel/subnet.env"
KUBECONFIG_HINT = "see `journalctl -u edge-kubernetes-prepare -u edge-kubernetes-join`"


def kubeconfig_value(text: str, key: str) -> str | None:
    """The first value of `key` in a kubeconfig, which is JSON or block YAML with plain scalars."""
    match = re.search(rf'^\s*-?\s*"?{key}"?:\s*"?([^"\s,]+)', text, re.MULTILINE)
    return match[1] if match else None


def kubeconfig_content(text: str, key: str) -> bytes:
    """The contents of `key`-data (base64), or of the file that `key` names. Raises `Problem` and `OSError`."""
    if data := kubeconfig_value(text, f"{key}-data"):
        return base64.b64decode(data)
    if path := kubeconfig_value(text, key):
        return read_file(Path(path))
    raise Problem(f"the kubeconfig has no {key}", hint=KUBECONFIG_HINT)


def read_kubeconfig(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The address of the API server, and a TLS context with certificates. Raises `OSError` or `Problem`."""
    text = read_file(kubeconfig).decode(errors="replace")
    server = kubeconfig_value(text, "server") or ""
    if not server.startswith("https://"):
        raise Problem("no https server", where=str(kubeconfig), hint=KUBECONFIG_HINT)
    context = ssl.create_default_context(cadata=kubeconfig_content(text, "certificate-authority").decode())
    with tempfile.NamedTemporaryFile(prefix="edge-api-") as pair:  # has mode 0600; ssl reads keys only from files
        pair.write(kubeconfig_content(text, "client-certificate") + b"\n" + kubeconfig_content(text, "client-key"))
        pair.flush()
        context.load_cert_chain(pair.name)
    return server, context


def get_from_api(kubeconfig: Path, path: str) -> bytes:
    """GET `path` from the API server with the certificate of a kubeconfig. Raises `OSError` or `Problem`."""
    server, context = read_kubeconfig(kubeconfig)
    with urllib.request.urlopen(server + path, timeout=10, context=context) as answer:
        return bytes(answer.read())


def explain_node(node: dict[str, Any], boot_id: str) -> str | None:
    """Why a Node object (API reference, core/v1) is not Ready in this boot; None if it is."""
    status = node.get("status", {})
    if status.get("nodeInfo", {}).get("bootID") != boot_id:
        return "the kubelet has not reported since this boot"  # the status is from an earlier boot
    for condition in status.get("conditions", []):
        if condition.get("type") == "Ready":
            if condition.get("status") == "True":
                return None
            return f"not Ready: {condition.get('message') or condition.get('reason') or 'no reason given'}"
    return "not Ready: the kubelet has not reported a condition yet"


def explain_no_pod_network(root: Path) -> str | None:
    """Why K3s' flannel gives no addresses to pods yet; None if it does, or if pods use another CNI plugin."""
    # K3s configures CNI before it starts the kubelet, which is Ready from then on. Flannel starts only after the
    # controller manager has given this node its range of addresses; until then no pod sandbox starts.
    folder = root / FLANNEL_FOLDER
    names = sorted(path.name for path in folder.glob("*") if path.suffix in (".conf", ".conflist", ".json"))
    # containerd uses the first configuration only.
    if names[:1] == [FLANNEL_CONFIG] and not (root / FLANNEL_SUBNET).exists():
        return f"Ready, but pods get no addresses: flannel has not written /{FLANNEL_SUBNET} yet"
    return None


def explain_not_ready(root: Path, settings: NodeSettings | None = None) -> str | None:
    """Why this node is not Ready; None if it is."""
    settings = settings or load_settings(root)
    if settings.role == "none":
        return None
    kubeconfig = next((root / name for name in KUBECONFIGS[settings.role] if (root / name).exists()), None)
    if kubeconfig is None:
        return "no kubeconfig yet: " + (
            "the keys have not been created" if settings.role == "server" else "the node has not joined its cluster"
        )
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        return explain_node(json.loads(get_from_api(kubeconfig, f"/api/v1/nodes/{settings.node_name}")), boot_id)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return f"the cluster has no node {settings.node_name} yet"
        return f"the API server returned status {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"the API server does not answer: {error.reason}"
    except OSError as error:
        return f"the API server does not answer: {error}"


def explain_join(root: Path, settings: NodeSettings, reason: str) -> str:
    """The reason why a node is not Ready, with what its server says about its token on an agent of K3s."""
    if settings.role != "agent" or not is_k3s(root):
        return reason
    from osbuild.agent.kubernetes import k3s_join  # imports this module

    failure = k3s_join.explain_join(root, settings)
    return f"{reason}; {failure.message}" if failure else reason


def await_ready(root: Path, patience: float, pause: float = 1.0) -> str | None:
    """Wait up to `patience` seconds until this node can start pods. Returns None, or the reason why it can't."""
    settings, end = load_settings(root), time.monotonic() + patience
    while reason := explain_not_ready(root, settings):
        if time.monotonic() >= end:
            return explain_join(root, settings, reason)
        time.sleep(pause)
    # From here on the API server is not asked again: the requests would take processor time from its start.
    while reason := explain_no_pod_network(root):
        if time.monotonic() >= end:
            return reason
        time.sleep(pause / 4)
    return None


def await_api(root: Path, pause: float = 1.0) -> None:
    """Wait without limit until the API server of this node is ready."""
    # The controller manager exits if the API server is not ready after 10 s, and other programs retry only after a
    # delay if a role does not exist yet. On a slow processor it is faster to start them after the API server is ready.
    kubeconfig = root / KUBECONFIGS["server"][0]
    while True:
        try:
            server, context = read_kubeconfig(kubeconfig)
            address = urllib.parse.urlsplit(server)
            connection = http.client.HTTPSConnection(address.hostname or "", address.port, timeout=10, context=context)
            # All questions use one connection: each new one takes processor time from the start of the API server.
            with closing(connection):
                while not is_ready(connection):
                    time.sleep(pause)
            return
        except (OSError, http.client.HTTPException, Problem):
            pass  # it is not running, or its keys do not exist yet
        time.sleep(pause)


def is_ready(connection: http.client.HTTPSConnection) -> bool:
    """Whether the API server says that it is ready. Raises `OSError` and `HTTPException`."""
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.read() == b"ok" and answer.status == http.HTTPStatus.OK
