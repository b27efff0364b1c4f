"""Private keys in files: PKCS#8 (RFC 5958) as PEM, encrypted if there is a passphrase."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.config import secrets
from osbuild.keys.key_files import PRIVATE, check_private, read_key_file, write_key_file
from osbuild.shared.errors import Error

Key = ec.EllipticCurvePrivateKey
LONGEST = 1023  # bytes of a passphrase (PEM_BUFSIZE of OpenSSL, without its final NUL)
CURVES = ("secp256r1", "secp384r1")  # supported by RAUC's OpenSSL, hardware tokens and cloud key stores alike


def resolve_passphrase(reference: str | None) -> bytes | None:
    """Read the secret that `file:PATH` or `env:NAME` refers to; paths are relative to the current folder.

    Raises `Error`.
    """
    secret = secrets.resolve_secret(reference, folder=Path()).encode() if reference else None
    if secret and len(secret) > LONGEST:
        message = f"a passphrase of {len(secret)} bytes is too long: OpenSSL supports up to {LONGEST}"
        raise Error(message, where=reference, hint="check that this is the right file")
    return secret


def generate_key() -> Key:
    """Generate a key on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def save_key(path: Path, key: Key, secret: bytes | None) -> None:
    """Write `key` with mode 0600, encrypted with `secret` if there is one. Raises `Error`."""
    write_key_file(path, key_to_pem(key, secret), mode=PRIVATE)


def key_to_pem(key: Key, secret: bytes | None = None) -> bytes:
    """Return `key` as PEM, encrypted only if there is a `secret`."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret:
        encryption = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def load_key(path: Path, secret: bytes | None, *, option: str, hint: str) -> Key:
    """Read the key in a file. Raises `Error`.

    `option` is the command-line option of the passphrase; `hint` is given if the file does not exist.
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
            message, hint = "this is not a private key", "restore it from your backup"
        # Raised without a cause: OpenSSL's message does not help the user, and might reveal parts of the secret.
        raise Error(message, where=str(path), hint=hint) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise Error(
            "this is not a key on the curve P-256 or P-384", where=str(path), hint="use a key on one of these curves"
        )
    return key
