"""Joining a cluster of the upstream distribution by a shared token.

The token is a secret of any form. Nothing that an anonymous caller can read depends on it: the server publishes a
random salt and a random identifier. From token and salt, stretched (scrypt, RFC 7914), both sides derive three keys:
one lets an agent read who the cluster's authority is, one signs this answer, one asks for a certificate. The last is
sent only to a server that the answer has proven to be the right one. Kubernetes knows the first and the last as
bootstrap tokens (Kubernetes documentation, "Authenticating with Bootstrap Tokens"), which expire unless renewed daily.
"""

import base64
import datetime
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
SALT = 16  # bytes
SCRYPT_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}  # 32 MiB and about 0.1 s for each guess
LIFETIME = datetime.timedelta(days=7)  # of what the cluster keeps; a server renews it every day
LABEL = "edge-osbuild/join"
PUBLIC, PRIVATE = ("kube-public", "edge-osbuild-join"), ("kube-system", "edge-osbuild-join")  # ConfigMaps
GROUP = "system:bootstrappers:edge-osbuild"  # may ask for a certificate: see programs/node/approve.go
DISCOVERY = f"{GROUP}-discovery"  # may read PRIVATE


@dataclass(frozen=True)
class Invitation:
    """What a server keeps of its current token: a salt in hex, two identifiers, and a check of the token in hex."""

    salt: str
    discovery: str
    join: str
    check: str


@dataclass(frozen=True)
class JoinKeys:
    """What is derived from a token: secrets of two bootstrap tokens, and the key of the signature."""

    discovery: str
    join: str
    signature: bytes
    check: str


def derive_keys(token: str, salt: str) -> JoinKeys:
    """Derive the keys of a token. Raises `ValueError` unless `salt` is hex of a reasonable length."""
    raw = bytes.fromhex(salt)
    if not 16 <= len(raw) <= 64:
        raise ValueError("the server's salt has a wrong length")
    master = hashlib.scrypt(token.encode(), salt=raw, **SCRYPT_COST)

    def derived(purpose: str) -> bytes:
        return hmac.new(master, f"edge-osbuild {purpose}".encode(), hashlib.sha256).digest()

    return JoinKeys(
        discovery=token_secret(derived("discovery")),
        join=token_secret(derived("join")),
        signature=derived("signature"),
        check=derived("check").hex(),
    )


def token_secret(data: bytes, length: int = 16) -> str:
    """`data` as a bootstrap token's secret."""
    number, made = int.from_bytes(data, "big"), ""
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        made += ALPHABET[digit]
    return made


def make_invitation(token: str, kept: Mapping[str, Any]) -> tuple[Invitation, JoinKeys]:
    """The invitation for a token: the one that was `kept` if it is for this token, or a new one."""
    try:
        old = Invitation(**kept)
        keys = derive_keys(token, old.salt)
        if hmac.compare_digest(keys.check, old.check):
            return old, keys
    except (TypeError, ValueError):
        pass  # there is none, or it is damaged
    salt = secrets.token_hex(SALT)
    keys = derive_keys(token, salt)
    return Invitation(
        salt, token_secret(secrets.token_bytes(32), 6), token_secret(secrets.token_bytes(32), 6), keys.check
    ), keys


def sign_answer(keys: JoinKeys, join: str, authority: str) -> str:
    """The signature, in hex, of what a server says about its cluster."""
    return hmac.new(keys.signature, json.dumps([join, authority]).encode(), hashlib.sha256).hexdigest()


def bearer_token(identifier: str, secret: str) -> str:
    return f"{identifier}.{secret}"


def read_public(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Salt and identifier from the ConfigMap that anyone may read. Raises `ValueError`."""
    data = answer.get("data") or {}
    salt, identifier = data.get("salt"), data.get("discovery")
    if not isinstance(salt, str) or not re.fullmatch(r"[a-z0-9]{6}", str(identifier)):
        raise ValueError("the server has not published how to join it")
    return salt, str(identifier)


def read_authority(keys: JoinKeys, answer: Mapping[str, Any]) -> tuple[str, str]:
    """The cluster's authority in PEM, and the identifier to join by. Raises `ValueError` on one not to trust."""
    data = answer.get("data") or {}
    found, join, signature = (str(data.get(name)) for name in ("authority", "join", "signature"))
    if not hmac.compare_digest(sign_answer(keys, join, found), signature):
        raise ValueError("the answer is signed by another token: is the token right, and the server the right one?")
    return found, join


def join_objects(
    invitation: Invitation, keys: JoinKeys, authority: str, now: datetime.datetime
) -> list[dict[str, Any]]:
    """What a server's cluster must hold so that agents can join it."""
    expiration = (now + LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")

    def token(identifier: str, secret: str, group: str) -> dict[str, Any]:
        data = {
            "token-id": identifier,
            "token-secret": secret,
            "expiration": expiration,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": group,
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system", "labels": {LABEL: ""}},
            "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
        }

    def config(place: tuple[str, str], data: Mapping[str, str]) -> dict[str, Any]:
        metadata = {"name": place[1], "namespace": place[0], "labels": {LABEL: ""}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}

    signature = sign_answer(keys, invitation.join, authority)
    shown = {name: value for name, value in asdict(invitation).items() if name in ("salt", "discovery")}
    return [
        token(invitation.discovery, keys.discovery, DISCOVERY),
        token(invitation.join, keys.join, GROUP),
        config(PUBLIC, shown),
        config(PRIVATE, {"authority": authority, "join": invitation.join, "signature": signature}),
        *read_rights(PUBLIC, "Group", "system:unauthenticated"),
        *read_rights(PRIVATE, "Group", DISCOVERY),
        cluster_role_binding("bootstrap", "system:node-bootstrapper", GROUP),
    ]


def permanent_objects() -> list[dict[str, Any]]:
    """What agents need that have joined, whether others may or not."""
    renew = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
    # kube-proxy on an agent uses the kubelet's certificate.
    return [
        cluster_role_binding("approve-renewal", renew, "system:nodes"),
        cluster_role_binding("proxy", "system:node-proxier", "system:nodes"),
    ]


def read_rights(place: tuple[str, str], kind: str, subject: str) -> list[dict[str, Any]]:
    """The right of one subject to read one ConfigMap."""
    rbac, (namespace, name) = "rbac.authorization.k8s.io", place
    metadata = {"name": name, "namespace": namespace, "labels": {LABEL: ""}}
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": rbac, "kind": kind, "name": subject}],
        },
    ]


def cluster_role_binding(name: str, role: str, subject: str) -> dict[str, Any]:
    """A ClusterRole for a group."""
    rbac = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"edge-osbuild:{name}"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": subject}],
    }
