"""Signed seeds: SHA256SUMS lists every file, and SHA256SUMS.p7s is a detached signature of it (CMS, RFC 5652).

Seeds are signed with the same keys as bundles and checked against the image's keyring, including its revocation lists.
The validity period is not checked, because a device may have no clock; a stolen key has to be revoked.
"""

import tempfile
from pathlib import Path

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.system import System
from osbuild.shared.openssl_trust import trust_options
from osbuild.shared.seed import checksums
from osbuild.shared.seed.files import CHECKSUMS, SIGNATURE, SIGNED_HEADER, SeedFiles
from osbuild.shared.seed.refused import SeedRefused

KEYRING = "/usr/lib/rauc/keyring.pem"
TIMEOUT = 60.0  # seconds


def verify_signature(system: System, seed: SeedFiles) -> None:
    """Raise `SeedRefused` unless a signer that the image trusts has signed every file of `seed`."""
    if seed.sums is None or seed.signature is None:
        raise SeedRefused("the seed is not signed; sign it with `edge-osbuild seed --sign`")
    if not seed.sums.startswith(SIGNED_HEADER):
        raise SeedRefused(f"{CHECKSUMS} was not created by `edge-osbuild seed --sign`")
    if missing := sorted(seed.files.keys() - checksums.parse_checksums(seed.sums).keys()):
        raise SeedRefused(f"{missing[0]} is not signed: {CHECKSUMS} does not list it")
    keyring = system.path(KEYRING)
    if not keyring.is_file():
        raise SeedRefused("the image has no keyring to check the signature")
    with tempfile.TemporaryDirectory(prefix="edge-seed-", dir=system.path("/run")) as folder:
        text, signature = Path(folder, CHECKSUMS), Path(folder, SIGNATURE)
        text.write_bytes(seed.sums)
        signature.write_bytes(seed.signature)
        command: list[str | Path] = [
            "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", signature, "-content", text,
            *trust_options(keyring), "-purpose", "codesign", "-crl_check", "-no_check_time", "-out", "/dev/null",
        ]  # fmt: skip
        try:
            result = run_command(command, timeout=TIMEOUT)
        except CommandNotFinished as error:
            raise SeedRefused(f"the signature cannot be checked: {error}") from None
    if result.returncode != 0:
        raise SeedRefused(f"the signature is not valid: {openssl_reason(result.stderr)}")


def openssl_reason(text: str) -> str:
    """The error messages of OpenSSL without error codes."""
    lines = [line for line in text.splitlines() if line.strip()]
    details = [line.rpartition(":")[2].strip() for line in lines if "error:" in line]
    return "; ".join(dict.fromkeys(detail for detail in details if detail)) or (lines[-1] if lines else "no reason")
