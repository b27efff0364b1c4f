"""The protocol for joining a cluster of the upstream distribution with a shared join token.

The token is a secret of any form. The server publishes a random salt and a random identifier, which do not depend on
the token. From token and salt, both sides derive three keys with scrypt (RFC 7914): the discovery key lets an agent
node read the certificate authority of the cluster, the signature key signs this answer, and the join key authorizes a
certificate request. The join key is sent only to a server whose answer has a valid signature. In Kubernetes, discovery
key and join key are bootstrap tokens (Kubernetes documentation, "Authenticating with Bootstrap Tokens"), which expire
unless they are renewed.
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
LIFETIME = datetime.timedelta(days=7)  # of the bootstrap tokens; a server node renews them every day
LABEL = "edge-osbuild/join"
PUBLIC, PRIVATE = ("kube-public", "edge-osbuild-join"), ("kube-system", "edge-osbuild-join")  # ConfigMaps
GROUP = "system:bootstrappers:edge-osbuild"  # may request a certificate; see programs/node/approve.go
DISCOVERY = f"{GROUP}-discovery"  # may read PRIVATE


@dataclass(frozen=True)
class Invitation:
    """Stored data of the current token: salt (hex), two identifiers, and a check value of the token (hex)."""

    salt: str
    discovery: str
    join: str
    check: str


@dataclass(frozen=True)
class JoinKeys:
    """Keys derived from a token: secrets of two bootstrap tokens, the signature key, and the check value."""

    discovery: str
    join: str
    signature: bytes
    check: str


def derive_keys(token: str, salt: str) -> JoinKeys:
    """Derive the keys of a token. Raises `ValueError` if `salt` is not hex of 16 to 64 bytes."""
    raw = bytes.fromhex(salt)
    if not 16 <= len(raw) <= 64:
        raise ValueError("the salt of the server has an invalid length")
    master = hashlib.scrypt(token.encode(), salt=raw, **SCRYPT_COST)

    def derive(purpose: str) -> bytes:
        return hmac.new(master, f"edge-osbuild {purpose}".encode(), hashlib.sha256).digest()

    return JoinKeys(
        discovery=token_secret(derive("discovery")),
        join=token_secret(derive("join")),
        signature=derive("signature"),
        check=derive("check").hex(),
    )


def token_secret(data: bytes, length: int = 16) -> str:
    """Convert `data` to `length` characters of a bootstrap token."""
    number, secret = int.from_bytes(data, "big"), ""
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        secret += ALPHABET[digit]
    return secret


def make_invitation(token: str, stored: Mapping[str, Any]) -> tuple[Invitation, JoinKeys]:
    """The invitation for a token: the `stored` one if it belongs to this token, otherwise a new one."""
    try:
        old = Invitation(**stored)
        keys = derive_keys(token, old.salt)
        if hmac.compare_digest(keys.check, old.check):
            return old, keys
    except (TypeError, ValueError):
        pass  # missing or damaged
    salt = secrets.token_hex(SALT)
    keys = derive_keys(token, salt)
    return Invitation(
        salt, token_secret(secrets.token_bytes(32), 6), token_secret(secrets.token_bytes(32), 6), keys.check
    ), keys


def sign_answer(keys: JoinKeys, join: str, authority: str) -> str:
    """The signature (hex) of the join identifier and the certificate authority (PEM)."""
    return hmac.new(keys.signature, json.dumps([join, authority]).encode(), hashlib.sha256).hexdigest()


def bearer_token(identifier: str, secret: str) -> str:
    return f"{identifier}.{secret}"


def read_public(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Salt and discovery identifier from the public ConfigMap. Raises `ValueError`."""
    data = answer.get("data") or {}
    salt, identifier = data.get("salt"), data.get("discovery")
    if not isinstance(salt, str) or not re.fullmatch(r"[a-z0-9]{6}", str(identifier)):
        raise ValueError("the server has not published the data for joining")
    return salt, str(identifier)


def read_authority(keys: JoinKeys, answer: Mapping[str, Any]) -> tuple[str, str]:
    """Certificate authority (PEM) and join identifier. Raises `ValueError` if the signature is not valid."""
    data = answer.get("data") or {}
    authority, join, signature = (str(data.get(name)) for name in ("authority", "join", "signature"))
    if not hmac.compare_digest(sign_answer(keys, join, authority), signature):
        raise ValueError("the answer is signed with another token; check the join token and the address of the server")
    return authority, join


def join_objects(
    invitation: Invitation, keys: JoinKeys, authority: str, now: datetime.datetime
) -> list[dict[str, Any]]:
    """The objects that let agent nodes join the cluster."""
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

    def config(location: tuple[str, str], data: Mapping[str, str]) -> dict[str, Any]:
        metadata = {"name": location[1], "namespace": location[0], "labels": {LABEL: ""}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}

    signature = sign_answer(keys, invitation.join, authority)
    public = {name: value for name, value in asdict(invitation).items() if name in ("salt", "discovery")}
    return [
        token(invitation.discovery, keys.discovery, DISCOVERY),
        token(invitation.join, keys.join, GROUP),
        config(PUBLIC, public),
        config(PRIVATE, {"authority": authority, "join": invitation.join, "signature": signature}),
        *read_rights(PUBLIC, "Group", "system:unauthenticated"),
        *read_rights(PRIVATE, "Group", DISCOVERY),
        cluster_role_binding("bootstrap", "system:node-bootstrapper", GROUP),
    ]


def permanent_objects() -> list[dict[str, Any]]:
    """The objects that joined agent nodes need, even if no other nodes may join."""
    renew = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
    # kube-proxy on an agent node uses the certificate of the kubelet.
    return [
        cluster_role_binding("approve-renewal", renew, "system:nodes"),
        cluster_role_binding("proxy", "system:node-proxier", "system:nodes"),
        network_role(),
        cluster_role_binding("network", "edge-osbuild:network", "system:nodes"),
    ]


def network_role() -> dict[str, Any]:
    """What the pod network of each node reads: the ranges of other nodes, and what network policies are about."""
    watched = {"": ["nodes", "pods", "namespaces"], "networking.k8s.io": ["networkpolicies"]}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "edge-osbuild:network"},
        "rules": [
            {"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]}
            for group, resources in watched.items()
        ],
    }


def read_rights(location: tuple[str, str], kind: str, subject: str) -> list[dict[str, Any]]:
    """Role and RoleBinding that let one subject read one ConfigMap."""
    rbac, (namespace, name) = "rbac.authorization.k8s.io", location
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
    """A ClusterRoleBinding of a role to a group."""
    rbac = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"edge-osbuild:{name}"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": subject}],
    }
