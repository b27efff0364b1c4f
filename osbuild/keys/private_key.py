"""Private keys in files: PEM, PKCS#8 (RFC 5958), encrypted if there is a passphrase."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.config import secrets
from osbuild.keys.key_files import PRIVATE, check_private, read_key_file, write_key_file
from osbuild.shared.errors import Error

Key = ec.EllipticCurvePrivateKey
LONGEST = 1023  # bytes of a passphrase (PEM_BUFSIZE of OpenSSL, without its final NUL)
CURVES = ("secp256r1", "secp384r1")  # what RAUC's OpenSSL, hardware tokens and cloud key stores all know


def resolve_passphrase(reference: str | None) -> bytes | None:
    """The secret behind `file:PATH` or `env:NAME`; paths are relative to the current folder. Raises `Error`."""
    secret = secrets.resolve_secret(reference, folder=Path()).encode() if reference else None
    if secret and len(secret) > LONGEST:
        message = f"a passphrase of {len(secret)} bytes is too long: OpenSSL takes {LONGEST}"
        raise Error(message, where=reference, hint="is this the right file?")
    return secret


def generate_key() -> Key:
    """A new key on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def save_key(path: Path, key: Key, secret: bytes | None) -> None:
    """Write `key` for its owner only, encrypted by `secret` if there is one."""
    write_key_file(path, key_to_pem(key, secret), mode=PRIVATE)


def key_to_pem(key: Key, secret: bytes | None = None) -> bytes:
    """PEM, in clear without `secret`."""
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret:
        how = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def load_key(path: Path, secret: bytes | None, *, option: str, hint: str) -> Key:
    """The key in a file.

    `option` is what the command line calls the passphrase, `hint` what to do where there is no file. Raises `Error`.
    """
    data = read_key_file(path, "the private key", hint)
    check_private(path)
    encrypted = b"ENCRYPTED" in data
    if encrypted and not secret:
        hint = f"give it with {option} file:PATH or {option} env:NAME"
        raise Error("the private key is encrypted, and no passphrase was given", where=str(path), hint=hint)
    try:
        key = serialization.load_pem_private_key(data, secret if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            message, hint = "the passphrase is wrong, or the file is damaged", f"check what {option} refers to"
        else:
            message, hint = "this is no private key", "restore it from your backup"
        # Raised without a cause: what OpenSSL said is of no use to a person, and near the secret.
        raise Error(message, where=str(path), hint=hint) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise Error("this is no key on the curve P-256 or P-384", where=str(path), hint="use a key of that kind")
    return key
