"""The protocol for joining a cluster of the upstream distribution with a shared join token.

The token is a secret of any form. The server publishes a random salt and a random identifier, which do not depend on
the token. From token and salt, both sides derive three keys with scrypt (RFC 7914): the discovery key lets an agent
node read the certificate authority of the cluster, the signature key signs this answer, and the join key authorizes a
certificate request. The join key is sent only to a server whose answer has a valid signature. In Kubernetes, discovery
key and join key are bootstrap tokens (Kubernetes documentation, "Authenticating with Bootstrap Tokens"), which expire
unless they are renewed.

Each token has a purpose, with ConfigMaps and groups of its own: agent nodes join with one token, servers with another,
and created tokens are separate from both.
"""

import base64
import datetime
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osbuild.shared.join_token import ALPHABET, hash_authority, random_text

SALT = 16  # bytes
SCRYPT_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}  # 32 MiB and about 0.1 s for each guess
LIFETIME = datetime.timedelta(days=7)  # of the bootstrap tokens; a server node renews them every day
LABEL = "edge-osbuild/join"  # of every object for joining; the value is the id of a created token, or empty
GROUP = "system:bootstrappers:edge-osbuild"  # may request a certificate; see programs/node/approve.go


@dataclass(frozen=True)
class Purpose:
    """What a token is for: `group` has the rights of the join key, `discovery` may read the private ConfigMap.

    `suffix` is that of the names of its objects, `identifier` the id of a created token.
    """

    suffix: str
    group: str
    discovery: str
    identifier: str = ""

    @property
    def public(self) -> tuple[str, str]:
        """Namespace and name of the ConfigMap that everybody may read."""
        return "kube-public", f"edge-osbuild-join{self.suffix}"

    @property
    def private(self) -> tuple[str, str]:
        """Namespace and name of the ConfigMap with the certificate authority."""
        return "kube-system", f"edge-osbuild-join{self.suffix}"


AGENTS = Purpose("", GROUP, f"{GROUP}-discovery")
BUNDLE = ("kube-system", "edge-osbuild-servers")  # the Secret with the sealed keys of the cluster (server_bundle.py)
SEALED = "sealed"
SERVERS = Purpose("-servers", f"{GROUP}-servers", f"{GROUP}-servers-discovery")


def created_purpose(identifier: str) -> Purpose:
    """The purpose of a created token, which agent nodes use. It gives no access to what depends on other tokens."""
    return Purpose(f".{identifier}", GROUP, f"{GROUP}-discovery:{identifier}", identifier)


@dataclass(frozen=True)
class Invitation:
    """What the cluster stores for a token, all of it random: the salt (hex), and the ids of two bootstrap tokens."""

    salt: str
    discovery: str
    join: str


@dataclass(frozen=True)
class JoinKeys:
    """Keys derived from a token: secrets of two bootstrap tokens, the signature key, and the key of the bundle."""

    discovery: str
    join: str
    signature: bytes
    bundle: bytes


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
        bundle=derive("servers"),
    )


def token_secret(data: bytes, length: int = 16) -> str:
    """Convert `data` to `length` characters of a bootstrap token."""
    number, secret = int.from_bytes(data, "big"), ""
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        secret += ALPHABET[digit]
    return secret


def make_invitation(token: str) -> tuple[Invitation, JoinKeys]:
    """A new invitation for a token, and its keys."""
    invitation = Invitation(secrets.token_hex(SALT), random_text(6), random_text(6))
    return invitation, derive_keys(token, invitation.salt)


def stored_invitation(
    token: str, public: Mapping[str, Any], private: Mapping[str, Any]
) -> tuple[Invitation, JoinKeys] | None:
    """The invitation in the two ConfigMaps of a purpose, and its keys; None if they are not for this token.

    All servers of a cluster use the same one.
    """
    try:
        salt, discovery = read_public(public)
        keys = derive_keys(token, salt)
        _, join = read_authority(keys, private)
    except ValueError:
        return None
    return Invitation(salt, discovery, join), keys


def check_value(keys: JoinKeys) -> str:
    """A value (hex) by which the token of `keys` is recognized later."""
    return hashlib.sha256(keys.signature).hexdigest()


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


@dataclass(frozen=True, kw_only=True)
class JoinOffer:
    """What a server publishes for a token. `authority` is a certificate in PEM; the token is valid until `expires`.

    `bundle` is what servers that join get (`server_bundle`), sealed with a key of the token.
    """

    purpose: Purpose
    invitation: Invitation
    keys: JoinKeys
    authority: str
    expires: datetime.datetime | None
    description: str = ""
    bundle: str = ""


def join_objects(offer: JoinOffer) -> list[dict[str, Any]]:
    """The objects with which machines that have the token find the cluster, and may ask to join it."""
    purpose, invitation, keys = offer.purpose, offer.invitation, offer.keys
    labels = {LABEL: purpose.identifier}

    def token(identifier: str, secret: str, group: str) -> dict[str, Any]:
        data = {
            "token-id": identifier,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": group,
        }
        if offer.expires:
            data["expiration"] = offer.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
        if offer.description:
            data["description"] = offer.description
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system", "labels": labels},
            "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
        }

    def config(location: tuple[str, str], data: Mapping[str, str]) -> dict[str, Any]:
        metadata = {"name": location[1], "namespace": location[0], "labels": labels}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}

    # The hash of the authority is public, like the authority in K3s. It only serves an early error message.
    public = {
        "salt": invitation.salt,
        "discovery": invitation.discovery,
        "authority": hash_authority(offer.authority.encode()),
    }
    signature = sign_answer(keys, invitation.join, offer.authority)
    private = {"authority": offer.authority, "join": invitation.join, "signature": signature}
    sealed = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": BUNDLE[1], "namespace": BUNDLE[0], "labels": labels},
        "data": {SEALED: base64.b64encode(offer.bundle.encode()).decode()},
    }
    return [
        token(invitation.discovery, keys.discovery, purpose.discovery),
        token(invitation.join, keys.join, purpose.group),
        config(purpose.public, public),
        config(purpose.private, private),
        *read_rights(purpose.public, "system:unauthenticated", labels),
        *read_rights(purpose.private, purpose.discovery, labels),
        *([sealed, *read_rights(BUNDLE, purpose.group, labels, "secrets")] if offer.bundle else []),
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


def read_rights(
    location: tuple[str, str], group: str, labels: Mapping[str, str], resource: str = "configmaps"
) -> list[dict[str, Any]]:
    """Role and RoleBinding that let one group read one ConfigMap or Secret."""
    rbac, (namespace, name) = "rbac.authorization.k8s.io", location
    metadata = {"name": name, "namespace": namespace, "labels": dict(labels)}
    rule = {"apiGroups": [""], "resources": [resource], "resourceNames": [name], "verbs": ["get"]}
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": rbac, "kind": "Group", "name": group}],
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
