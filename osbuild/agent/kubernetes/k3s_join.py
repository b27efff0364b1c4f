"""Why a K3s agent cannot join its cluster. K3s itself repeats one line in its journal for hours."""

import base64
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from osbuild.agent.kubernetes.api import unverified_context
from osbuild.agent.kubernetes.join_discovery import check_authority
from osbuild.agent.kubernetes.join_failure import (
    FailureKind,
    JoinError,
    JoinFailure,
    clear_failure,
    describe_failure,
    record_failure,
)
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.token_files import AGENT
from osbuild.shared.join_token import hash_authority, parse_token
from osbuild.shared.node_settings import NodeSettings

TIMEOUT = 10.0  # seconds
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def explain_join(root: Path, settings: NodeSettings) -> JoinFailure | None:
    """Ask the server whether it accepts this agent's token. Stores and returns the failure, None if it does.

    Raises `OSError` if the failure cannot be stored.
    """
    assert settings.server is not None and settings.join_token is not None
    server = settings.server.rstrip("/")
    paths = Paths(root)
    try:
        check_token(server, settings.join_token)
    except (JoinError, OSError) as error:
        failure = describe_failure(error, server)
        record_failure(paths, failure)
        return failure
    clear_failure(paths)
    return None


def check_token(server: str, text: str) -> None:
    """Check a token as K3s does when an agent joins. Raises `JoinError` and `OSError`."""
    try:
        token = parse_token(text)
    except ValueError as error:
        raise JoinError(FailureKind.TOKEN, str(error)) from None
    authority = get(f"{server}/cacerts", unverified_context())
    if token.authority and authority.count(CERTIFICATE) == 1:  # K3s verifies chains itself
        check_authority(token, hash_authority(authority))
    trusted = ssl.create_default_context(cadata=authority.decode())
    credentials = base64.b64encode(f"{AGENT}:{token.password}".encode()).decode()
    bearer = f"Bearer {token.password}" if token.identifier else f"Basic {credentials}"
    try:
        get(f"{server}/v1-k3s/server-ca.crt", trusted, bearer)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise
        raise JoinError(FailureKind.TOKEN, "the server does not know this token") from error


def get(url: str, context: ssl.SSLContext, authorization: str | None = None) -> bytes:
    """GET a file of the server. Raises `OSError`."""
    request = urllib.request.Request(url)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:
        return bytes(answer.read(2**20))
