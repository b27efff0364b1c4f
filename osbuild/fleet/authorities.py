"""The update server's own certificate authorities and certificates (X.509, RFC 5280).

One authority signs the server's certificate, which devices are told to trust. The other one signs the certificates of
devices. Their keys never leave the data folder.
"""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osbuild.fleet.refusal import Refused
from osbuild.host.output import write_output
from osbuild.keys.certificate import current_time, to_pem
from osbuild.keys.private_key import Key, generate_key, key_to_pem, load_key
from osbuild.shared.errors import Error
from osbuild.shared.operator_requests import SIGNER

LONGEST_NAME = 64  # characters of a common name (RFC 5280, ub-common-name)
AUTHORITY_DAYS, SERVER_DAYS, DEVICE_DAYS = 20 * 365, 365, 90
RENEWAL_DAYS = 30  # before its end the server's certificate is replaced
BACKDATED = timedelta(days=1)  # for devices whose clocks are late
PRIVATE, PUBLIC = 0o600, 0o644
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for


@dataclass(frozen=True)
class CertificateStamp:
    """What distinguishes a certificate from the others of its key: its serial number, and when it was issued."""

    serial: int
    issued: datetime


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its key."""

    certificate: x509.Certificate
    key: Key

    def issue(
        self,
        subject: str,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[str] | None = None,
        stamp: CertificateStamp | None = None,
    ) -> x509.Certificate:
        """Return a certificate with the common name `subject`: of a server with these `names`, or of a device.

        With the same `stamp`, it has the same contents. Without one, it is a new certificate, issued now.
        """
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if names is None else ExtendedKeyUsageOID.SERVER_AUTH
        days = DEVICE_DAYS if names is None else SERVER_DAYS
        builder = _begin_certificate(subject, key, days, stamp).issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if names is not None:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def load_authority(folder: Path, name: str) -> Authority:
    """Return the authority in the files NAME.crt and NAME.key, which are created if needed. Raises `Error`.

    A certificate that is missing is created again for its key: who trusts the old one trusts the new one too.
    """
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    hint = "restore the data folder from a backup"
    if not certificate_file.exists():  # the key is written first, and the server may have been killed then
        if not key_file.exists():
            write_output(key_file, key_to_pem(generate_key()), mode=PRIVATE)
        key = load_key(key_file, None, option="", hint=hint)
        builder = _begin_certificate(f"edge-osbuild {name}", key.public_key(), AUTHORITY_DAYS)
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edge-osbuild {name}")]))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        write_output(certificate_file, to_pem(builder.sign(key, hashes.SHA256())), mode=PUBLIC)
    key = load_key(key_file, None, option="", hint=hint)
    certificate = _read_certificate(certificate_file, hint)
    if certificate.public_key() != key.public_key():
        raise Error("the certificate and the key do not belong together", where=str(certificate_file), hint=hint)
    return Authority(certificate, key)


def load_server_certificate(folder: Path, authority: Authority, names: Sequence[str]) -> tuple[Path, Path]:
    """Return the files of the server's certificate and key. Raises `Error`.

    They are created if they do not exist, are not valid much longer, or lack one of `names`.
    """
    certificate_file, key_file = folder / "server.crt", folder / "server.key"
    if certificate_file.exists() and key_file.exists():
        hint = "remove the file: it is created again"
        certificate = _read_certificate(certificate_file, hint)
        remaining = certificate.not_valid_after_utc - datetime.now(UTC)
        present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        complete = all(_general_name(name) in list(present) for name in names)
        # A kill may have come between the two files.
        belongs = certificate.public_key() == load_key(key_file, None, option="", hint=hint).public_key()
        if remaining > timedelta(days=RENEWAL_DAYS) and complete and belongs:
            return certificate_file, key_file
    key = generate_key()
    certificate = authority.issue(names[0], key.public_key(), names)
    write_output(key_file, key_to_pem(key), mode=PRIVATE)
    write_output(certificate_file, to_pem(certificate) + to_pem(authority.certificate), mode=PUBLIC)
    return certificate_file, key_file


def load_request_certificate(folder: Path, authority: Authority) -> tuple[x509.Certificate, Key]:
    """Return the certificate with which requests of operators are signed, and its key. Raises `Error`.

    `authority` is that of the server's certificate, which devices trust. They are created or renewed if needed.
    """
    certificate_file, key_file = folder / "requests.crt", folder / "requests.key"
    hint = "remove the file: it is created again"
    if certificate_file.exists() and key_file.exists():
        certificate, key = _read_certificate(certificate_file, hint), load_key(key_file, None, option="", hint=hint)
        remaining = certificate.not_valid_after_utc - datetime.now(UTC)
        if remaining > timedelta(days=RENEWAL_DAYS) and certificate.public_key() == key.public_key():
            return certificate, key
    key = generate_key()
    builder = _begin_certificate(SIGNER, key.public_key(), SERVER_DAYS).issuer_name(authority.certificate.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = builder.add_extension(issuer, critical=False).sign(authority.key, hashes.SHA256())
    write_output(key_file, key_to_pem(key), mode=PRIVATE)
    write_output(certificate_file, to_pem(certificate), mode=PUBLIC)
    return certificate, key


def read_request_key(device: str, request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key for which a device requests a certificate (PKCS #10, RFC 2986, as PEM). Raises `Refused`."""
    try:
        parsed = x509.load_pem_x509_csr(request)
        key = parsed.public_key()
        names = [str(name.value) for name in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        valid = parsed.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(400, "bad-request", f"this is not a certificate request: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Refused(400, "bad-key", "the key of a device is on the curve P-256")
    if not valid or names != [device]:
        raise Refused(400, "bad-request", f"the request must be signed and its only common name be {device}")
    if len(device) > LONGEST_NAME:
        raise Refused(
            400, "bad-device-id", f"the name of a device with a certificate has at most {LONGEST_NAME} characters"
        )
    return key


def server_context(certificate: Path, key: Path, devices: Authority) -> ssl.SSLContext:
    """Return the server's side of TLS. A client may have a certificate; then it must be that of a device."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=to_pem(devices.certificate).decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    # A device that was off for long renews its certificate with the one that has ended: `is_accepted` checks the time.
    context.verify_flags |= NO_CHECK_TIME
    context.set_alpn_protocols(["http/1.1"])
    return context


def _begin_certificate(
    subject: str, key: ec.EllipticCurvePublicKey, days: int, stamp: CertificateStamp | None = None
) -> x509.CertificateBuilder:
    stamp = stamp or CertificateStamp(x509.random_serial_number(), current_time())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .public_key(key)
        .serial_number(stamp.serial)
        .not_valid_before(stamp.issued - BACKDATED)
        .not_valid_after(stamp.issued + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read_certificate(path: Path, hint: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Error(f"this certificate can't be read: {error}", where=str(path), hint=hint) from error
