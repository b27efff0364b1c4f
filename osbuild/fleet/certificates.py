"""Certificates of devices, as far as the update server accepts them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from osbuild.fleet.authorities import BACKDATED, DEVICE_DAYS
from osbuild.fleet.database import revoke_rows
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.refusal import Refused
from osbuild.fleet.tables import certificates, devices

FIND_SERIAL = PreparedRead(
    select(certificates.c.revoked, certificates.c.expires, devices.c.name)
    .join(devices, certificates.c.device == devices.c.id)
    .where(certificates.c.serial == bindparam("serial_number"), devices.c.decommissioned.is_(None))
)
FIND_ENROLLED = PreparedRead(
    select(devices.c.enrolled).where(devices.c.name == bindparam("device_name"), devices.c.decommissioned.is_(None))
)
DAY = 24 * 3600 * 1000  # milliseconds
RENEWAL_GRACE = 365 * DAY
"""milliseconds after its end in which a certificate still proves who asks for a new one"""
MOST_CERTIFICATES = 10  # of one device in 24 hours, before it gets no further one for its certificate


@dataclass(frozen=True)
class ClientCertificate:
    """The certificate of a client, signed by our authority. Times are in milliseconds since 1970."""

    serial: str
    name: str
    issued: int
    expires: int

    @classmethod
    def parse(cls, pem: bytes) -> "ClientCertificate":
        """Return what a certificate says. Raises `ValueError`."""
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        issued = certificate.not_valid_before_utc + BACKDATED
        expires = certificate.not_valid_after_utc
        name = str(names[0].value) if names else ""
        return cls(serial_of(certificate), name, _milliseconds(issued), _milliseconds(expires))


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number of a certificate as it is stored."""
    return f"{certificate.serial_number:x}"


def record_certificate(connection: Connection, device: int, certificate: x509.Certificate) -> None:
    """Accept a certificate of a device from now on."""
    expires = int(certificate.not_valid_after_utc.timestamp() * 1000)
    values = {"serial": serial_of(certificate), "device": device, "expires": expires}
    connection.execute(insert(certificates).values(values))


def find_issued(connection: Connection, serial: str, now: int) -> datetime | None:
    """Return when a certificate was issued, in UTC; None if it is unknown.

    Raises `Refused` if it is not accepted any more: then whoever has requested it has got it, or lost the right to it.
    """
    chosen = select(certificates.c.expires, certificates.c.revoked).where(certificates.c.serial == serial)
    row = connection.execute(chosen).first()
    if row is None:
        return None
    if row.revoked is not None or row.expires <= now:
        message = "the certificate for this enrolment token has been replaced or has ended: create a new token"
        raise Refused(403, "certificate-replaced", message)
    return datetime.fromtimestamp(row.expires / 1000, UTC) - timedelta(days=DEVICE_DAYS)


def check_quota(connection: Connection, device: int, now: int) -> None:
    """Raise `Refused` if a device has got too many certificates in the last 24 hours."""
    # A certificate is valid for the same time as the others, so its end says when it was issued.
    recent = (certificates.c.device == device) & (certificates.c.expires > now + (DEVICE_DAYS - 1) * DAY)
    chosen = select(func.count()).select_from(certificates).where(recent)
    if connection.execute(chosen).scalar_one() >= MOST_CERTIFICATES:
        message = f"a device gets at most {MOST_CERTIFICATES} certificates in 24 hours"
        raise Refused(429, "too-many-certificates", message)


def delete_ended(connection: Connection, now: int, most: int) -> int:
    """Delete at most `most` certificates with which nothing can be proved any more, and return how many they were."""
    # Revoked ones must be known until then: `is_accepted` may accept one that is not known.
    ended = select(certificates.c.serial).where(certificates.c.expires + RENEWAL_GRACE <= now).limit(most)
    serials = list(connection.execute(ended).scalars())
    connection.execute(delete(certificates).where(certificates.c.serial.in_(serials)))
    return len(serials)


def revoke_certificates(connection: Connection, device: int, now: int, *, but: str = "") -> None:
    """Accept no certificate of a device any more, but the one with the serial number `but`."""
    revoke_rows(connection, certificates, (certificates.c.device == device) & (certificates.c.serial != but), now)


def is_accepted(connection: Connection, certificate: ClientCertificate, now: int, grace: int = 0) -> bool:
    """Whether a certificate proves that a client is the device of its name, at most `grace` milliseconds after its end.

    A certificate that is not known was issued before the server was restored from an older backup. It is accepted if it
    is not older than the last enrolment of the device.
    """
    if certificate.expires + grace <= now:
        return False
    known = FIND_SERIAL.first(connection, serial_number=certificate.serial)
    if known is not None:
        return known["revoked"] is None and bool(known["name"] == certificate.name)
    device = FIND_ENROLLED.first(connection, device_name=certificate.name)
    return device is not None and device["enrolled"] is not None and certificate.issued >= int(device["enrolled"])


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
