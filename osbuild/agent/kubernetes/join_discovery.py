"""Finds the cluster of a join token: an agent node and a server that joins verify the cluster before they trust it."""

import ssl
import urllib.error
from dataclasses import dataclass
from typing import Any

from osbuild.agent.kubernetes import join_protocol
from osbuild.agent.kubernetes.api import ApiServer, unverified_context
from osbuild.agent.kubernetes.join_failure import FailureKind, JoinError
from osbuild.agent.kubernetes.join_protocol import JoinKeys, Purpose
from osbuild.shared.join_token import PREFIX, JoinToken, hash_authority, parse_token

SHOWN = 12  # digits of a hash in a message


@dataclass(frozen=True)
class FoundCluster:
    """A verified cluster: its certificate authority (PEM), its API with the rights of the token, the token's keys."""

    authority: str
    api: ApiServer
    keys: JoinKeys


def find_cluster(server: str, text: str, purpose: Purpose) -> FoundCluster:
    """The cluster at the URL `server`.

    `text` is a full or short token for `purpose`, or one that `edge-agent kubernetes token create` has made. Nothing
    that depends on the token is sent before the server's answer is verified, except the key that reads the answer.
    Raises `JoinError` and `OSError`.
    """
    try:
        token = parse_token(text)
    except ValueError as error:
        raise JoinError(FailureKind.TOKEN, str(error)) from None
    if token.identifier:
        purpose = join_protocol.created_purpose(token.identifier)
    untrusted = unverified_context()
    public = read_offer(ApiServer(server, untrusted), purpose)
    if token.authority:
        check_authority(token, (public.get("data") or {}).get("authority") or token.authority)
    try:
        salt, identifier = join_protocol.read_public(public)
        keys = join_protocol.derive_keys(token.password, salt)
        bearer = join_protocol.bearer_token(identifier, keys.discovery)
        private = get_config_map(ApiServer(server, untrusted, bearer), purpose.private)
        authority, join_identifier = join_protocol.read_authority(keys, private)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise JoinError(FailureKind.TOKEN, "the server does not know this token") from error
        raise
    except ValueError as error:
        raise JoinError(FailureKind.TOKEN, str(error)) from error
    if token.authority:
        check_authority(token, hash_authority(authority.encode()))
    trusted = ssl.create_default_context(cadata=authority)
    api = ApiServer(server, trusted, join_protocol.bearer_token(join_identifier, keys.join))
    return FoundCluster(authority, api, keys)


def read_offer(api: ApiServer, purpose: Purpose) -> dict[str, Any]:
    """The public ConfigMap of a purpose. Raises `JoinError` if there is none, and `OSError`."""
    try:
        return get_config_map(api, purpose.public)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403, 404):
            raise
        what = f"the created token {purpose.identifier}" if purpose.identifier else "a token of this kind"
        reason = "it has expired or was revoked" if purpose.identifier else "it has none, or is starting"
        raise JoinError(FailureKind.TOKEN, f"the server does not know {what}: {reason}") from error


def check_authority(token: JoinToken, actual: str) -> None:
    """Compare the authority that a token pins with the hash (hex) of the server's. Raises `JoinError`."""
    if token.authority != actual:
        raise JoinError(
            FailureKind.AUTHORITY,
            f"the token is for the authority {PREFIX}{token.authority[:SHOWN]}…, but that of the server is "
            f"{PREFIX}{actual[:SHOWN]}…",
        )


def get_config_map(api: ApiServer, location: tuple[str, str]) -> dict[str, Any]:
    """The ConfigMap at (namespace, name). Raises `OSError` and `ValueError`."""
    answer = api.call("GET", f"/api/v1/namespaces/{location[0]}/configmaps/{location[1]}")
    if not isinstance(answer, dict):
        raise ValueError("the answer is not an object")
    return answer
