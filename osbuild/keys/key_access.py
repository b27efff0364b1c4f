"""Access to private keys. Only this module chooses between a key file and a PKCS#11 token.

A new signing method needs a class of keys like `TokenKey`, and a case in `open_key`, `new_key` and `rauc_key`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from osbuild.host.run import Argument
from osbuild.keys import private_key
from osbuild.keys.key_folder import KeyFolder, check_signer
from osbuild.keys.pkcs11_token import TokenKey, token_access
from osbuild.keys.private_key import Key
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

# Secrets are passed on standard input. Every user could read them on a command line, which also has the sandbox's
# environment.
WITH_PIN = 'IFS= read -r RAUC_PKCS11_PIN; export RAUC_PKCS11_PIN; exec "$@"'


@dataclass(frozen=True)
class KeyFile:
    """A file with a private key. `secret` is its passphrase, `option` the command-line option of the passphrase.

    `hint` is given if the file does not exist.
    """

    path: Path
    secret: bytes | None
    option: str = "--passphrase"
    hint: str = ""


@dataclass(frozen=True)
class TokenAccess:
    """How a PKCS#11 token is accessed: the tools tree with OpenSSL, created when it is needed, and the PIN."""

    tools: Callable[[], ToolsTree]
    pin: bytes | None


def open_key(token: str | None, file: KeyFile, access: TokenAccess) -> Key:
    """Return the private key that the PKCS#11 URI `token` names, or without a URI the key in `file`. Raises `Error`."""
    if token:
        return TokenKey(access.tools(), token, access.pin)
    return private_key.load_key(file.path, file.secret, option=file.option, hint=file.hint)


def new_key(token: str | None, file: KeyFile, access: TokenAccess) -> Key:
    """Return the key that `token` names, or without a URI a new key, which is written to `file`. Raises `Error`."""
    if token:
        return TokenKey(access.tools(), token, access.pin)
    key = private_key.generate_key()
    private_key.save_key(file.path, key, file.secret)
    return key


def open_signer(keys: KeyFolder, secret: bytes | None, access: TokenAccess) -> tuple[x509.Certificate, Key]:
    """Return certificate and private key of the current signer, after checking both. Raises `Error`.

    `secret` is the passphrase of the key's file.
    """
    signer = keys.find_signer()
    certificate = check_signer(keys, signer)
    hint = f"restore it, or create another signer with `edge-osbuild keys rotate {keys.folder}`"
    file = KeyFile(keys.folder / f"{signer.name}.key", secret, hint=hint)
    return certificate, check_pair(keys, signer.name, open_key(signer.token, file, access))


def check_pair(keys: KeyFolder, name: str, key: Key) -> Key:
    """Return `key`. Raises `Error` if it does not belong to the certificate `name`."""
    if keys.certificate(name).public_key() != key.public_key():
        hint = "one of the two belongs to another key folder: restore both from the same backup"
        raise Error(f"the private key of {name} does not belong to its certificate", where=str(keys.folder), hint=hint)
    return key


@dataclass(frozen=True)
class RaucKey:
    """How RAUC accesses a private key: `prefix` precedes the command line, and `reference` is the value of `--key`.

    RAUC needs the host paths `paths`, the variables `environment` and the standard input `input`.
    """

    reference: str
    input: str
    prefix: Sequence[Argument] = ()
    paths: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def rauc_key(key: Key, tools: ToolsTree) -> RaucKey:
    """Return how RAUC in `tools` accesses `key`. Raises `Error`."""
    if not isinstance(key, TokenKey):
        return RaucKey("/dev/stdin", private_key.key_to_pem(key).decode())
    environment, paths = token_access(tools)
    return RaucKey(key.uri, (key.pin or b"").decode() + "\n", ("sh", "-c", WITH_PIN, "sh"), paths, environment)
