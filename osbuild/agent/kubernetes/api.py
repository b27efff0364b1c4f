"""Calls to the API server with a kubeconfig's certificate. Starts no other program."""

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.readiness import KUBECONFIG_HINT, KUBECONFIGS, read_kubeconfig
from osbuild.shared.node_settings import NodeSettings

MERGE_PATCH = "application/merge-patch+json"  # RFC 7386


@dataclass(frozen=True)
class ApiServer:
    """An API server, and who this node is to it: by the context's certificate, or by a bearer token."""

    server: str
    context: ssl.SSLContext
    token: str | None = None

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        """What it answers, as JSON. Raises `OSError`; for an answer other than success `urllib.error.HTTPError`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {"Content-Type": kind}, method=method)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
                return json.load(answer)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{self.server}: not an answer: {error}") from error


def connect_api(root: Path, settings: NodeSettings) -> ApiServer:
    """The API server of this node's cluster: as its administrator on a server, on an agent as the kubelet.

    A kubelet may read and patch its own node and pods, and evict these (Kubernetes documentation, "Using Node
    Authorization"). Raises `Problem` and `OSError`.
    """
    kubeconfig = next((root / name for name in KUBECONFIGS[settings.role] if (root / name).exists()), None)
    if kubeconfig is None:
        raise Problem("this node has no kubeconfig yet", hint=KUBECONFIG_HINT)
    server, context = read_kubeconfig(kubeconfig)
    return ApiServer(server.rstrip("/"), context)


def quote_path(word: str) -> str:
    """A name as a part of a path."""
    return urllib.parse.quote(word, safe="")


def explain_failure(error: Exception) -> str:
    """Why a call failed, in a few words: the server's own where it gave some (API reference, `Status`)."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return f"the API server answers {error.code}: {json.loads(error.read())['message']}"
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
            return f"the API server answers {error.code} {error.reason}"
    return f"the API server does not answer: {error}" if isinstance(error, OSError) else str(error)
