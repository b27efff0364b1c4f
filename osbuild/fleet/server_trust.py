"""How a client of the update server knows the server: its address and the authority of its certificate."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from osbuild.shared.errors import Error, UsageError
from osbuild.shared.urls import redact_url

WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL
WRONG_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


def check_address(url: str) -> None:
    """Raise `UsageError` unless `url` is the https address of a server. By http, anybody could read the token."""
    hint = "write the address of the server, such as https://updates.example.com:8443"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError("this is not the address of an update server", where=redact_url(url), hint=hint) from error
    if parts.scheme == "http":
        message = "http would send the access token as plain text"
        raise UsageError(message, where=redact_url(url), hint="write https: an update server has no other address")
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address of the update server contains a user or a password", hint=hint)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        if "://" not in url:
            hint = f"write it with its scheme: https://{url}"
        raise UsageError("this is not the address of an update server", where=redact_url(url), hint=hint)


def read_authority(path: Path) -> str:
    """Return the certificate in a file as PEM. Raises `Error`, which names the file."""
    from cryptography import x509

    hint = "name the file tls/server-ca.crt of the server's data folder"
    try:
        content = path.read_bytes()
        x509.load_pem_x509_certificates(content)
        return content.decode("ascii")
    except OSError as error:
        raise Error(f"the certificate can't be read: {error.strerror}", where=str(path), hint=hint) from error
    except ValueError as error:
        raise Error("this file is not a certificate (PEM)", where=str(path), hint=hint) from error


def trust_authority(authority: str) -> ssl.SSLContext:
    """Return the client's side of TLS, which trusts only the certificate `authority` (PEM). Raises `Error`."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody yet, and checks names
        context.load_verify_locations(cadata=authority)
        return context
    except (ssl.SSLError, ValueError) as error:
        hint = "log in again with --ca and the file tls/server-ca.crt of the server's data folder"
        raise Error("the stored authority of the update server is not a certificate", hint=hint) from error


def explain_failure(error: httpx.HTTPError, url: str) -> Error:
    """Return why a server has not answered, and what to do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _explain_certificate(cause.verify_code, url)
    if cause is not None:
        message, hint = "the server does not speak TLS", "check host and port: this may be another service"
    else:
        message = f"the update server does not answer: {error}"
        hint = "check the address, and that the server runs"
    return Error(message, where=url, hint=hint)


def _explain_certificate(code: int, url: str) -> Error:
    if code in WRONG_NAME:
        message = f"the certificate of the server is not for the name {urlsplit(url).hostname}"
        return Error(message, where=url, hint="use a name that it has, or start the server with this one as --name")
    if code in WRONG_TIME:
        message = "the certificate of the server is not valid at this time"
        return Error(message, where=url, hint="check the clocks of this machine and of the server")
    message = "the certificate of the server was not issued by the authority of --ca"
    hint = "log in with the file tls/server-ca.crt of this server's data folder; if it has that, this is another server"
    return Error(message, where=url, hint=hint)
