"""Certificates and revocation lists (X.509, RFC 5280), in the form that RAUC's checks want.

RAUC verifies with `check-purpose=codesign`, `check-crl=true` and the time at which a bundle was signed
(`use-bundle-signing-time=true`): many devices have no clock worth the name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osbuild.keys.private_key import Key

DEVELOPMENT = "DEVELOPMENT - not for devices in the field"
ROOT_DAYS, SIGNER_DAYS = 20 * 365, 365
REASONS = {
    "compromised": x509.ReasonFlags.key_compromise,
    "superseded": x509.ReasonFlags.superseded,
    "ceased": x509.ReasonFlags.cessation_of_operation,
}


@dataclass(frozen=True)
class Revoked:
    """One entry of a list of revoked certificates."""

    serial: int
    when: datetime
    reason: str


@dataclass(frozen=True)
class CertificateRequest:
    """What a certificate is to say: owner and name of the key, whether it is for development, and its days."""

    owner: str
    name: str
    development: bool = False
    days: int | None = None

    @property
    def subject(self) -> x509.Name:
        """Development keys say what they are in the unit (OU)."""
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.owner)]
        if self.development:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, DEVELOPMENT))
        return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, f"edge-osbuild {self.name}")])


def current_time() -> datetime:
    """The time in UTC, in whole seconds, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def is_development(certificate: x509.Certificate) -> bool:
    """Whether a certificate is marked as one of development keys."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return any(unit.value == DEVELOPMENT for unit in units)


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
    """A root that signs itself; it may sign signers and revocation lists, nothing else."""
    begin = current_time()
    validity = begin, begin + timedelta(days=request.days or ROOT_DAYS)
    builder = _builder(request.subject, request, key.public_key(), key.public_key(), validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_usage(authority=True), critical=True).sign(key, hashes.SHA256())


def make_signer(
    root: x509.Certificate, root_key: Key, key: ec.EllipticCurvePublicKey, request: CertificateRequest
) -> x509.Certificate:
    """A certificate for code signing (Baseline Requirements for code signing, as OpenSSL checks them) below `root`."""
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
    """The list of what `root` has revoked.

    It is dated like the root: OpenSSL refuses a list that is younger than the time it checks for, and that is when the
    bundle was signed, which may be before the list was. Nor may a list run out before the root: the devices that need
    it most have been off for years. That a device has the newest list is seen to by updates, not by dates.
    """
    builder = (
        x509.CertificateRevocationListBuilder(root.subject)
        .last_update(root.not_valid_before_utc)
        .next_update(root.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    )
    for entry in revoked:
        made = x509.RevokedCertificateBuilder(entry.serial, entry.when)
        made = made.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
        builder = builder.add_revoked_certificate(made.build())
    return builder.sign(root_key, hashes.SHA256())


def read_revocations(crl: x509.CertificateRevocationList) -> list[Revoked]:
    """What a list made here says, in its order."""
    words = {flag: word for word, flag in REASONS.items()}
    return [
        Revoked(
            entry.serial_number,
            entry.revocation_date_utc,
            words[entry.extensions.get_extension_for_class(x509.CRLReason).value.reason],
        )
        for entry in crl
    ]


def list_number(crl: x509.CertificateRevocationList) -> int:
    """The list's number, which rises by one with each new list."""
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of the certificate, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def to_pem(thing: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """As PEM (RFC 7468)."""
    return thing.public_bytes(serialization.Encoding.PEM)
