"""Whom OpenSSL trusts when it verifies a signature (openssl-verification-options(1))."""

from pathlib import Path


def trust_options(keyring: Path) -> list[str | Path]:
    """Return the options with which `openssl` trusts the certificates in `keyring` (PEM), and no others."""
    # Without the last two, OpenSSL also trusts every authority of the system.
    return ["-CAfile", keyring, "-no-CApath", "-no-CAstore"]
