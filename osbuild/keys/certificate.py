"""Certificates and revocation lists (X.509, RFC 5280) that pass RAUC's checks.

RAUC verifies with `check-purpose=codesign`, `check-crl=true` and `use-bundle-signing-time=true`: it checks the
certificates at the time when a bundle was signed, because many devices do not know the current time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osbuild.keys.private_key import CURVES, Key

COMMON_NAME = "edge-osbuild "  # before the name of a root or signer
DEVELOPMENT = "DEVELOPMENT - not for devices in the field"
ROOT_DAYS, SIGNER_DAYS = 20 * 365, 365
REASONS = {
    "compromised": x509.ReasonFlags.key_compromise,
    "superseded": x509.ReasonFlags.superseded,
    "ceased": x509.ReasonFlags.cessation_of_operation,
}


@dataclass(frozen=True)
class Revoked:
    """One entry of a revocation list."""

    serial: int
    when: datetime
    reason: str


@dataclass(frozen=True)
class CertificateRequest:
    """The contents of a new certificate: owner and name of the key, whether it is for development, and its days."""

    owner: str
    name: str
    development: bool = False
    days: int | None = None

    @property
    def subject(self) -> x509.Name:
        """The subject. Development keys have a note in the unit (OU)."""
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.owner)]
        if self.development:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, DEVELOPMENT))
        return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME + self.name)])


def current_time() -> datetime:
    """Return the time in UTC in whole seconds, the resolution of certificates."""
    return datetime.now(UTC).replace(microsecond=0)


def certified_name(certificate: x509.Certificate) -> str:
    """Return the name of the root or signer that a certificate belongs to; empty if it is not one of ours."""
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return next((name.removeprefix(COMMON_NAME) for name in names if name.startswith(COMMON_NAME)), "")


def is_development(certificate: x509.Certificate) -> bool:
    """Whether a certificate belongs to development keys."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return any(unit.value == DEVELOPMENT for unit in units)


def usage_problem(certificate: x509.Certificate, *, authority: bool) -> str | None:
    """Say why a certificate cannot be that of a root (`authority`) or of a signer; None if it can."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        return "the key is not on the curve P-256 or P-384"
    constraints = [extension.value for extension in certificate.extensions
                   if isinstance(extension.value, x509.BasicConstraints)]  # fmt: skip
    if any(value.ca for value in constraints) != authority:
        return "it is that of a signer" if authority else "it is that of a root"
    return None


def _builder(
    issuer: x509.Name, request: CertificateRequest, key: ec.EllipticCurvePublicKey,
    signed_by: ec.EllipticCurvePublicKey, validity: tuple[datetime, datetime],
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder(issuer, request.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def make_root(key: Key, request: CertificateRequest) -> x509.Certificate:
    """Return a self-signed root certificate, which may sign only signers and revocation lists."""
    begin = current_time()
    validity = begin, begin + timedelta(days=request.days or ROOT_DAYS)
    builder = _builder(request.subject, request, key.public_key(), key.public_key(), validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_usage(authority=True), critical=True).sign(key, hashes.SHA256())


def make_signer(
    root: x509.Certificate, root_key: Key, key: ec.EllipticCurvePublicKey, request: CertificateRequest
) -> x509.Certificate:
    """Return a certificate for code signing, issued by `root`, which OpenSSL's purpose `codesign` accepts.

    It expires after `days`, or with `root`.
    """
    begin = current_time()
    days = min(request.days or SIGNER_DAYS, (root.not_valid_after_utc - begin).days)
    validity = begin, begin + timedelta(days=days)
    builder = _builder(root.subject, request, key, root_key.public_key(), validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True)
    return builder.sign(root_key, hashes.SHA256())


def make_revocation_list(
    root: x509.Certificate, root_key: Key, revoked: Iterable[Revoked], number: int
) -> x509.CertificateRevocationList:
    """Return the revocation list of `root` with the entries `revoked`. `number` must increase with each list."""
    # The list has the same dates as the root. OpenSSL refuses a list that is newer than the checked time, and RAUC
    # checks at the time when the bundle was signed, possibly before the revocation. The list must not expire earlier
    # either, because a device may have been off for years. Updates, not dates, give devices the newest list.
    builder = (
        x509.CertificateRevocationListBuilder(root.subject)
        .last_update(root.not_valid_before_utc)
        .next_update(root.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    )
    for entry in revoked:
        revocation = x509.RevokedCertificateBuilder(entry.serial, entry.when)
        revocation = revocation.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
        builder = builder.add_revoked_certificate(revocation.build())
    return builder.sign(root_key, hashes.SHA256())


def read_revocations(crl: x509.CertificateRevocationList) -> list[Revoked]:
    """Return the entries of a list of `make_revocation_list`, in its order."""
    reasons = {flag: reason for reason, flag in REASONS.items()}
    return [
        Revoked(
            entry.serial_number,
            entry.revocation_date_utc,
            reasons[entry.extensions.get_extension_for_class(x509.CRLReason).value.reason],
        )
        for entry in crl
    ]


def list_number(crl: x509.CertificateRevocationList) -> int:
    """Return the number of a revocation list, which increases by one with each list."""
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def to_pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return a certificate or revocation list as PEM (RFC 7468)."""
    return certificate.public_bytes(serialization.Encoding.PEM)
