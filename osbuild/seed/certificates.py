"""Certificates and keys that a profile names by reference, as PEM (RFC 7468), checked before they are in a seed."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from osbuild.config import secrets
from osbuild.shared.errors import Error

PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def read_certificates(ref: str, folder: Path, dotted: str) -> list[x509.Certificate]:
    """Return the certificates that `ref` refers to. Raises `Error`, which names the reference only."""
    text = secrets.resolve_secret(ref, folder=folder)
    if "PRIVATE KEY" in text:
        hint = "keep the certificates only: the private key belongs to whoever signs with it"
        raise Error(f"found a private key in `{ref}`, expected certificates", where=dotted, hint=hint)
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        pass
    raise Error(f"found no certificate in `{ref}`", where=dotted, hint="name a file with certificates in PEM")


def read_pair(cert_ref: str, key_ref: str, folder: Path, dotted: str) -> tuple[str, str]:
    """Return a certificate with its chain, and its private key, both as PEM. Raises `Error` if they do not match."""
    certificates = read_certificates(cert_ref, folder, dotted)
    text = secrets.resolve_secret(key_ref, folder=folder)
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):
        key = None
    if key is None:
        hint = "name a file with a private key in PEM that has no passphrase"
        raise Error(f"found no private key in `{key_ref}`", where=dotted, hint=hint)
    own, other = (
        public.public_bytes(serialization.Encoding.PEM, PUBLIC)
        for public in (key.public_key(), certificates[0].public_key())
    )
    if own != other:
        message = f"the private key in `{key_ref}` does not belong to the certificate in `{cert_ref}`"
        raise Error(message, where=dotted, hint="name the certificate that was issued for this key first")
    return to_pem(certificates), text + "\n"


def to_pem(certificates: list[x509.Certificate]) -> str:
    """Return certificates as PEM, without texts beside them."""
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)
