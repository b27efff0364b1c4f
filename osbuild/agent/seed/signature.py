"""Signed seeds: SHA256SUMS names every file, and SHA256SUMS.p7s is a detached signature of it (CMS, RFC 5652).

The keys are those that sign bundles, and the image's keyring says whom to trust, with its lists of revoked
certificates. The time is not checked, since a device may have no clock; a stolen key is revoked.
"""

import subprocess
import tempfile
from pathlib import Path

from osbuild.agent.system import System
from osbuild.shared.seed import checksums
from osbuild.shared.seed.files import CHECKSUMS, SIGNATURE, SIGNED_HEADER, SeedFiles
from osbuild.shared.seed.refused import SeedRefused

KEYRING = "/usr/lib/rauc/keyring.pem"
TIMEOUT = 60.0  # seconds


def verify_signature(system: System, seed: SeedFiles) -> None:
    """Raise `Refused` unless a key that the image trusts has signed every file of `seed`, which was read whole."""
    if seed.sums is None or seed.signature is None:
        raise SeedRefused("it is not signed: make it with `edge-osbuild seed --sign`")
    if not seed.sums.startswith(SIGNED_HEADER):
        raise SeedRefused(f"{CHECKSUMS} was not made by `edge-osbuild seed --sign`")
    if missing := sorted(seed.files.keys() - checksums.parse_checksums(seed.sums).keys()):
        raise SeedRefused(f"{missing[0]} is not signed: {CHECKSUMS} does not name it")
    keyring = system.path(KEYRING)
    if not keyring.is_file():
        raise SeedRefused("the image has no keyring to check its signature by")
    with tempfile.TemporaryDirectory(prefix="edge-seed-", dir=system.path("/run")) as folder:
        text, signature = Path(folder, CHECKSUMS), Path(folder, SIGNATURE)
        text.write_bytes(seed.sums)
        signature.write_bytes(seed.signature)
        command: list[str | Path] = [
            "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", signature, "-content", text,
            "-CAfile", keyring, "-no-CApath", "-no-CAstore", "-purpose", "codesign", "-crl_check", "-no_check_time",
            "-out", "/dev/null",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SeedRefused(f"its signature can't be checked: {error}") from None
    if done.returncode != 0:
        raise SeedRefused(f"its signature is not good: {openssl_reason(done.stderr)}")


def openssl_reason(text: str) -> str:
    """What OpenSSL said, without its numbers."""
    lines = [line for line in text.splitlines() if line.strip()]
    details = [line.rpartition(":")[2].strip() for line in lines if "error:" in line]
    return "; ".join(dict.fromkeys(detail for detail in details if detail)) or (lines[-1] if lines else "no reason")
