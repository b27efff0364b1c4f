"""Certificates of devices, as far as the update server accepts them."""

from cryptography import x509
from sqlalchemy import Connection, bindparam, insert, select, update

from osbuild.fleet.tables import certificates, devices

NAME_OF_SERIAL = (
    select(devices.c.name)
    .join(certificates, certificates.c.device == devices.c.id)
    .where(certificates.c.serial == bindparam("serial_number"), certificates.c.revoked.is_(None))
)


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number of a certificate as it is stored."""
    return f"{certificate.serial_number:x}"


def record_certificate(connection: Connection, device: int, certificate: x509.Certificate) -> None:
    """Accept a certificate of a device from now on."""
    expires = int(certificate.not_valid_after_utc.timestamp() * 1000)
    values = {"serial": serial_of(certificate), "device": device, "expires": expires}
    connection.execute(insert(certificates).values(values))


def revoke_certificates(connection: Connection, device: int, now: int) -> None:
    """Accept no certificate of a device any more."""
    valid = (certificates.c.device == device) & certificates.c.revoked.is_(None)
    connection.execute(update(certificates).where(valid).values(revoked=now))


def find_certified_device(connection: Connection, serial: str) -> str | None:
    """Return the name of the device whose certificate has this serial number; None if it is not accepted."""
    return connection.execute(NAME_OF_SERIAL, {"serial_number": serial}).scalar_one_or_none()
