"""Joining a cluster of the upstream distribution by a shared token, as kubeadm does it.

The token is a secret of any form; from it come the parts of a bootstrap token (Kubernetes documentation,
"Authenticating with Bootstrap Tokens"). An agent finds the cluster's authority in the ConfigMap `cluster-info`, which
anyone may read and whose signature (a detached JWS, RFC 7515 appendix F) only a holder of the token can make.
"""

import base64
import hashlib
import hmac
import json
import re
from typing import Any

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def parts(token: str) -> tuple[str, str]:
    """Identifier (6 characters) and secret (16) of the bootstrap token that stands for `token`."""
    if found := re.fullmatch(r"([a-z0-9]{6})\.([a-z0-9]{16})", token):
        return found[1], found[2]
    number = int.from_bytes(hashlib.sha256(b"edge-osbuild bootstrap token\0" + token.encode()).digest(), "big")
    text = ""
    for _ in range(22):
        number, digit = divmod(number, len(ALPHABET))
        text += ALPHABET[digit]
    return text[:6], text[6:]


def encode(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_by(token: str, content: str, signature: str) -> bool:
    """Whether `signature`, `HEADER..MAC`, is that of `content` by the token's secret."""
    header, _, mac = signature.partition("..")
    try:
        algorithm = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))).get("alg")
    except (ValueError, AttributeError):
        return False
    secret = parts(token)[1].encode()
    right = hmac.new(secret, f"{header}.{encode(content.encode())}".encode(), hashlib.sha256).digest()
    return algorithm == "HS256" and hmac.compare_digest(encode(right), mac)


def authority(token: str, cluster_info: dict[str, Any]) -> str:
    """The cluster's authority, in PEM, from the ConfigMap `cluster-info`. Raises `ValueError` on one not to trust."""
    data = cluster_info.get("data") or {}
    content = data.get("kubeconfig")
    signature = data.get(f"jws-kubeconfig-{parts(token)[0]}")
    if not content or not signature:
        raise ValueError("the server does not know this token (yet)")
    if not signed_by(token, content, signature):
        raise ValueError("cluster-info is signed by another token: is the token right, and the server the right one?")
    found = re.search(r'"?certificate-authority-data"?:\s*"?([A-Za-z0-9+/=]+)', content)
    if not found:
        raise ValueError("cluster-info names no certificate authority")
    return base64.b64decode(found[1]).decode()


def bootstrap_kubeconfig(token: str, server: str, authority_file: str) -> str:
    """What the kubelet asks for its first certificate with."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority": authority_file}}],
            "users": [{"name": "bootstrap", "user": {"token": ".".join(parts(token))}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "bootstrap"}}],
            "current-context": "default",
        },
        indent=2,
    )


def objects(token: str, server: str, authority_pem: str) -> list[dict[str, Any]]:
    """What a server must hold so that agents can join by `token`: the same as kubeadm makes."""
    identifier, secret = parts(token)
    group = "system:bootstrappers:edge-osbuild"
    rbac = "rbac.authorization.k8s.io"

    def binding(name: str, role: str, subject: str) -> dict[str, Any]:
        return {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"edge-osbuild:{name}"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": rbac, "kind": "Group", "name": subject}],
        }

    approve = "system:certificates.k8s.io:certificatesigningrequests"
    info = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(authority_pem.encode()).decode(),
                },
            }
        ],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system"},
            "stringData": {
                "token-id": identifier,
                "token-secret": secret,
                "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true",
                "auth-extra-groups": group,
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": json.dumps(info)},
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": "edge-osbuild:cluster-info", "namespace": "kube-public"},
            "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "edge-osbuild:cluster-info", "namespace": "kube-public"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "edge-osbuild:cluster-info"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "system:anonymous"}],
        },
        binding("bootstrap", "system:node-bootstrapper", group),
        binding("approve-first", f"{approve}:nodeclient", group),
        binding("approve-renewal", f"{approve}:selfnodeclient", "system:nodes"),
        # kube-proxy on an agent uses the kubelet's certificate.
        binding("proxy", "system:node-proxier", "system:nodes"),
    ]
