"""The signature of an operator's request, which the device verifies with the authority of its update server."""

import tempfile
from pathlib import Path

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.system import System
from osbuild.shared.openssl_trust import trust_options
from osbuild.shared.operator_requests import SIGNER, OperatorRequest, parse_operator_request

TIMEOUT = 60.0  # seconds
SIGNER_TEXT = [f"subject=CN={SIGNER}", "X509v3 Extended Key Usage: critical", "Code Signing"]
"""what openssl-x509(1) prints about the certificate that signs requests"""


class RequestRejected(Exception):
    """A request is not carried out. The message says why."""


def verify_request(system: System, data: bytes, authority: str) -> OperatorRequest:
    """Return the request in CMS (PEM) that the update server has signed. `authority` is PEM. Raises `RequestRejected`.

    The certificate must be valid now, be for signing, and have the common name for requests: another certificate of the
    same authority, such as the server's own for TLS, signs nothing.
    """
    with tempfile.TemporaryDirectory(prefix="edge-request-", dir=system.path("/run")) as folder:
        message, trusted, signer, content = (Path(folder, name) for name in ("message", "trusted", "signer", "content"))
        message.write_bytes(data)
        trusted.write_text(authority)
        run_openssl(
            [
                "openssl", "cms", "-verify", "-binary", "-inform", "PEM", "-in", message,
                *trust_options(trusted), "-purpose", "any", "-signer", signer, "-out", content,
            ]
        )  # fmt: skip
        shown = ["-subject", "-nameopt", "RFC2253", "-ext", "extendedKeyUsage"]
        text = run_openssl(["openssl", "x509", "-in", signer, "-noout", *shown])
        if [line.strip() for line in text.splitlines()] != SIGNER_TEXT:
            raise RequestRejected("the certificate that has signed it is not one for requests")
        document = content.read_bytes()
    try:
        return parse_operator_request(document)
    except ValueError as error:
        raise RequestRejected(f"it is not a request that this version supports: {error}") from error


def run_openssl(command: list[str | Path]) -> str:
    """Return the output of openssl(1). Raises `RequestRejected` if it does not accept what it was given."""
    try:
        result = run_command(command, timeout=TIMEOUT, errors="replace")
    except CommandNotFinished as error:
        raise RequestRejected(f"the signature cannot be checked: {error}") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reasons = [line.rpartition(":")[2].strip() for line in lines if "error:" in line]
        reason = "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or "\n".join(lines[-1:])
        raise RequestRejected(f"the signature is not valid: {reason[:200]}")
    return result.stdout
