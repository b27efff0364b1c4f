"""Enrolment: with a token, a device gets its first certificate. With its certificate, it gets the next one."""

import hashlib

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, update
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.authorities import CertificateStamp, read_request_key
from osbuild.fleet.certificates import (
    RENEWAL_GRACE,
    ClientCertificate,
    check_quota,
    find_issued,
    is_accepted,
    record_certificate,
    revoke_certificates,
    serial_of,
)
from osbuild.fleet.ddi.access import certified_name, client_certificate
from osbuild.fleet.description import ApiAccess, ApiRoute
from osbuild.fleet.devices import FleetDevice, check_name, find_device, register_device
from osbuild.fleet.enrolment_tokens import check_token, is_repeated, use_token
from osbuild.fleet.rate_limit import RateLimit
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json, read_anonymous_body
from osbuild.fleet.service import Service
from osbuild.fleet.tables import devices
from osbuild.keys.certificate import current_time, to_pem

MOST_REFUSALS, MINUTE = 10, 60_000  # refused enrolments of one address that are recorded in so many milliseconds
ENROL, RENEW = "/enrol/v1", "/enrol/v1/renew"


class EnrolmentRequest(msgspec.Struct):
    """What a device sends. `request` is its certificate request (PKCS #10) as PEM."""

    device: str
    request: str
    token: str = ""


def enrolment_routes(service: Service) -> list[BaseRoute]:
    """Return the routes at which devices get certificates."""

    limit = RateLimit(MOST_REFUSALS, MINUTE)

    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        message = decode_json(await read_anonymous_body(request), EnrolmentRequest)
        check_name(message.device)
        try:
            return await enrol_device(service, message, address)
        except Refused as refusal:
            # A right token is never refused because of wrong ones from the same address, such as that of a gateway.
            if refusal.status == 403:
                origin = Origin(f"device {message.device}", address, service.clock())
                await record_refusal(service, limit, message.device, origin, refusal.message)
            raise

    async def renew(request: Request) -> Response:
        message = decode_json(await read_anonymous_body(request), EnrolmentRequest)
        certificate = client_certificate(request)
        if certificate is None or certified_name(request, service, RENEWAL_GRACE) != message.device:
            raise Refused(401, "not-authenticated", "")
        origin = Origin(f"device {message.device}", request.client.host if request.client else "", service.clock())
        return await renew_certificate(service, message, certificate, origin)

    return [
        ApiRoute(ENROL, enrol, {"POST": enrol}, ApiAccess.everybody),
        ApiRoute(RENEW, renew, {"POST": renew}, ApiAccess.everybody),
    ]


async def record_refusal(service: Service, limit: RateLimit, name: str, origin: Origin, reason: str) -> None:
    """Record that an enrolment is refused. Raises `Refused` if too many of an address were recorded in this minute."""
    if limit.is_reached(origin.address, origin.time):
        raise Refused(429, "too-many-requests", "too many enrolments were refused: try again in a minute", 60)
    limit.count(origin.address, origin.time)
    await service.database.change(
        lambda connection: record_event(connection, origin, "enrolment refused", name, reason=reason)
    )


async def enrol_device(service: Service, message: EnrolmentRequest, address: str) -> Response:
    """Register a device, and return its certificate. Older certificates of the device are not accepted any more.

    The same key with the same token gets the same certificate again, and nothing changes.
    """
    now, name = service.clock(), message.device

    def check(connection: Connection) -> None:
        check_token(connection, message.token, name, find_device(connection, name), now)

    service.database.read(check)  # before the certificate is made, which costs time
    key = read_request_key(name, message.request.encode())
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_hash = hashlib.sha256(encoded).digest()
    stamp = CertificateStamp(derive_serial(message, encoded), current_time())
    certificate = service.authority.issue(name, key, stamp=stamp)

    def enrol(connection: Connection) -> CertificateStamp:
        known = find_device(connection, name)
        token = check_token(connection, message.token, name, known, now)
        use_token(connection, token, known, key_hash)
        if known is not None and is_repeated(token, known):
            issued = find_issued(connection, serial_of(certificate), now)
            if issued is not None:
                return CertificateStamp(stamp.serial, issued)
        device = register_device(connection, name, now)
        values = {"enrolled": now, "enrolment_token": token.id, "key_hash": key_hash, "decommissioned": None}
        values["attributes_wanted"] = True  # it may run another version than the device of this name before
        connection.execute(update(devices).where(devices.c.id == device.id).values(values))
        revoke_certificates(connection, device.id, now)
        record_certificate(connection, device.id, certificate)
        record_event(connection, Origin(f"device {name}", address, now), "device enrolled", name, token=token.id)
        return stamp

    recorded = await service.database.change(enrol)
    return answer_certificate(certificate if recorded == stamp else service.authority.issue(name, key, stamp=recorded))


def derive_serial(message: EnrolmentRequest, key: bytes) -> int:
    """Return the serial number of the certificate that a token gives to a key: 159 bits that only its owner knows."""
    # Equal for a repeated request, so that the certificate is found again. The token is random (RFC 5280, 4.1.2.2).
    parts = (b"edge-osbuild enrolment", message.token.encode(), message.device.encode(), key)
    return int.from_bytes(hashlib.sha256(b"\0".join(parts)).digest()[:20], "big") >> 1


async def renew_certificate(
    service: Service, message: EnrolmentRequest, presented: ClientCertificate, origin: Origin
) -> Response:
    """Return a new certificate of a device. The presented one stays accepted, if this answer is lost; others not."""
    now, name = origin.time, message.device

    def check(connection: Connection) -> FleetDevice:
        device = find_device(connection, name)
        if device is None or not is_accepted(connection, presented, now, RENEWAL_GRACE):  # revoked in the meantime
            raise Refused(401, "not-authenticated", "")
        check_quota(connection, device.id, now)
        return device

    service.database.read(check)  # before the certificate is made, which costs time
    certificate = service.authority.issue(name, read_request_key(name, message.request.encode()))

    def renew(connection: Connection) -> None:
        device = check(connection)
        revoke_certificates(connection, device.id, now, but=presented.serial)
        record_certificate(connection, device.id, certificate)
        record_event(connection, origin, "certificate renewed", name)

    await service.database.change(renew)
    return answer_certificate(certificate)


def answer_certificate(certificate: x509.Certificate) -> Response:
    """Return the answer with a certificate as PEM."""
    return Response(to_pem(certificate), media_type="application/pem-certificate-chain")
