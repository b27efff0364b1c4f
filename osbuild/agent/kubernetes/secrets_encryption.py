"""Encryption of Secrets in the datastore: whether it is on, and the key of the upstream distribution.

A cluster is encrypted from its first start, or from when the profile says `secrets-encryption: true`; an existing
cluster is not encrypted by an update, because an older image in the other slot could not read its Secrets any more. The
key is never removed: Secrets that were encrypted remain readable if the setting changes.
"""

import base64
import secrets
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.certificates import has_own_datastore
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json, write_text
from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json
from osbuild.shared.node_settings import NodeSettings

OPTION = "secrets-encryption"
KEY_BYTES = 32  # of secretbox (XSalsa20 and Poly1305)


def is_new_cluster(settings: NodeSettings, paths: Paths) -> bool:
    """Whether this server creates a datastore of its own at this start."""
    return has_own_datastore(settings, paths) and not (paths.data / "server/db/state.db").exists()


def creates_cluster(settings: NodeSettings, paths: Paths) -> bool:
    """Whether this server of the upstream distribution creates a cluster at this start."""
    if settings.uses_etcd:
        return not settings.server and not (paths.etcd / "member").exists()
    return is_new_cluster(settings, paths)


def encrypts_k3s(settings: NodeSettings, paths: Paths) -> bool:
    """Whether K3s gets the option. The answer of the first start is stored, also if K3s has not stored its key yet.

    Raises `OSError`.
    """
    decision = paths.data / OPTION
    if (paths.data / "server/cred/encryption-config.json").exists() or decision.exists():
        if not settings.flag(OPTION, default=True):
            print(f"kubernetes.config: `{OPTION}: false` has no effect on this cluster: `k3s secrets-encrypt disable`")
        return True
    if settings.flag(OPTION, default=is_new_cluster(settings, paths)):
        write_text(decision, "on\n", 0o600)  # before K3s encrypts anything
        return True
    return False


def write_encryption(settings: NodeSettings, paths: Paths) -> list[str]:
    """Write EncryptionConfiguration for upstream, and return the arguments of the API server, without dashes.

    The key is created if Secrets are to be encrypted and there is none. Raises `OSError`, and `Problem` if the file
    with the key is damaged.
    """
    if not paths.encryption_key.exists():
        is_new = creates_cluster(settings, paths)
        if not settings.flag(OPTION, default=is_new):
            return []
        if settings.has_servers and not is_new:
            print(
                f"kubernetes.config: `{OPTION}` has no effect: the other servers of this cluster would not have the key"
            )
            return []
        create_key(paths)
    key = read_key(paths)
    providers: list[dict[str, Any]] = [{"secretbox": {"keys": [key]}}, {"identity": {}}]
    if not settings.flag(OPTION, default=True):
        providers.reverse()  # the first one encrypts, the others only decrypt
    path = paths.run / "encryption.json"
    resources = [{"resources": ["secrets"], "providers": providers}]
    kind = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
    write_json(path, {**kind, "resources": resources}, 0o600)
    return [f"encryption-provider-config={path}"]


def read_key(paths: Paths) -> Any:
    """The key as EncryptionConfiguration has it. Raises `OSError` and `Problem`."""
    try:
        return parse_json(read_file(paths.encryption_key).decode())
    except ValueError:  # its text contains the key
        message = "the key that encrypts Secrets is damaged"
    raise Problem(message, where=str(paths.encryption_key), hint="restore the file: a new key cannot decrypt them")


def create_key(paths: Paths) -> None:
    """Create the key and wait until it is on the disk. Raises `OSError`."""
    paths.encryption_key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(paths.encryption_key, make_key(), 0o600)


def make_key() -> dict[str, str]:
    """A new key as EncryptionConfiguration has it."""
    return {"name": "key1", "secret": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}
