"""Calls to the API server with the certificate of a kubeconfig, without starting other programs."""

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
    """An API server with the credentials of this node: the certificate in `context`, or a bearer token."""

    server: str
    context: ssl.SSLContext
    token: str | None = None

    def get_text(self, path: str) -> str:
        """The answer to a GET request as text. Raises `OSError`."""
        try:
            with urllib.request.urlopen(self.server + path, timeout=10, context=self.context) as answer:
                return str(answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            error.strerror = explain_status(error)
            raise
        except http.client.HTTPException as error:
            raise OSError(f"{self.server}: invalid answer: {error}") from error

    def find(self, path: str) -> Any:
        """The JSON answer to a GET request; None if there is nothing at `path` (status 404). Raises `OSError`."""
        try:
            return self.call("GET", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        """The JSON answer to a request. Raises `OSError`; for an error status, `urllib.error.HTTPError`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {"Content-Type": kind}, method=method)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.strerror = explain_status(error)
            raise
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{self.server}: invalid answer: {error}") from error


def connect_api(root: Path, settings: NodeSettings) -> ApiServer:
    """The API server of the cluster, with administrator rights on a server node, and as the kubelet on an agent node.

    A kubelet may read and patch its own Node and pods, and evict the pods (Kubernetes documentation, "Using Node
    Authorization"). Raises `Problem` and `OSError`.
    """
    kubeconfig = next((root / name for name in KUBECONFIGS[settings.role] if (root / name).exists()), None)
    if kubeconfig is None:
        raise Problem("this node has no kubeconfig yet", hint=KUBECONFIG_HINT)
    server, context = read_kubeconfig(kubeconfig)
    return ApiServer(server.rstrip("/"), context)


def unverified_context() -> ssl.SSLContext:
    """TLS without checking the server's certificate, for an answer that is verified in another way."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def quote_path(name: str) -> str:
    """Quote a name as one component of a URL path."""
    return urllib.parse.quote(name, safe="")


def explain_status(error: urllib.error.HTTPError) -> str:
    """The message of the server about an error status (API reference, `Status`); without one, the status."""
    try:
        return f"the API server returned status {error.code}: {json.loads(error.read())['message']}"
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return f"the API server returned status {error.code} {error.reason}"


def explain_failure(error: Exception) -> str:
    """The reason of a failed call; if possible, the message of the server."""
    if isinstance(error, urllib.error.HTTPError):
        return error.strerror or explain_status(error)
    return f"the API server does not answer: {error}" if isinstance(error, OSError) else str(error)
