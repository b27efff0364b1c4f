"""Enrolment: with a token, a device gets its first certificate. With its certificate, it gets the next one."""

import hashlib
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, Row, select, update
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.authorities import issue_device_certificate
from osbuild.fleet.certificates import (
    RENEWAL_GRACE,
    ClientCertificate,
    is_accepted,
    record_certificate,
    revoke_certificates,
)
from osbuild.fleet.database import insert_row
from osbuild.fleet.ddi.access import certified_name, client_certificate
from osbuild.fleet.ddi.answers import answer_refusal
from osbuild.fleet.description import ApiAccess, ApiRoute
from osbuild.fleet.devices import FleetDevice, check_name, find_device, register_device
from osbuild.fleet.rate_limit import RateLimit
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json, read_anonymous_body
from osbuild.fleet.service import Service
from osbuild.fleet.tables import devices, enrolment_tokens
from osbuild.fleet.tokens import hash_token, make_token
from osbuild.keys.certificate import to_pem

PREFIX = "edge_enrol"
MOST_REFUSALS, MINUTE = 10, 60_000  # refused enrolments of one address in so many milliseconds
ENROL, RENEW = "/enrol/v1", "/enrol/v1/renew"


class EnrolmentRequest(msgspec.Struct):
    """What a device sends. `request` is its certificate request (PKCS #10) as PEM."""

    device: str
    request: str
    token: str = ""


@dataclass(frozen=True)
class EnrolmentToken:
    """A token that was created, and what it may be used for. `expires` is in milliseconds since 1970."""

    id: int
    token: str
    uses: int
    expires: int


@dataclass(frozen=True)
class TokenOrder:
    """A token to create, for `uses` devices, or only for the one named `device`. See `EnrolmentToken`."""

    uses: int
    expires: int
    note: str = ""
    device: str | None = None


def create_enrolment_token(connection: Connection, order: TokenOrder, origin: Origin) -> EnrolmentToken:
    """Create a token with which devices may enrol."""
    token = make_token(PREFIX)
    values = {
        "hash": hash_token(token), "note": order.note, "device": order.device, "uses_left": order.uses,
        "created": origin.time, "expires": order.expires,
    }  # fmt: skip
    number = insert_row(connection, enrolment_tokens, values)
    details = {"uses": order.uses, "expires": order.expires, "note": order.note, "device": order.device}
    record_event(connection, origin, "enrolment token created", str(number), **details)
    return EnrolmentToken(number, token, order.uses, order.expires)


def check_token(
    connection: Connection, message: EnrolmentRequest, known: FleetDevice | None, now: int
) -> Row[tuple[object, ...]]:
    """Return the row of a token that a device may use. Raises `Refused`. `known` is the device of this name."""
    chosen = select(enrolment_tokens).where(enrolment_tokens.c.hash == hash_token(message.token))
    row = connection.execute(chosen).first()
    if row is None:
        raise refuse_token("is unknown")
    if row.revoked is not None:
        raise refuse_token("was revoked")
    if row.expires <= now:
        raise refuse_token("has expired")
    if row.device not in (None, message.device):
        raise refuse_token("is for another device")
    if known is not None and known.enrolled is not None and known.enrolment_token != row.id:
        # Otherwise a device that has a token for many could take over the names of the others.
        if row.device is None:
            raise refuse_token("is not for a device that has enrolled before; use one that is only for its name")
        if row.created <= known.enrolled:
            raise refuse_token("is older than the enrolment of a device of this name")
    return row


def use_token(connection: Connection, row: Row[tuple[object, ...]], known: FleetDevice | None, key_hash: bytes) -> None:
    """Use up one use of a token, unless the same key used it before: its answer was lost. Raises `Refused`."""
    token = row._mapping
    if known is not None and known.enrolment_token == token["id"]:
        if known.key_hash != key_hash:
            raise refuse_token("was used already by a device of this name with another key")
        return
    if token["uses_left"] < 1:
        raise refuse_token("was used already")
    remaining = {"uses_left": token["uses_left"] - 1}
    connection.execute(update(enrolment_tokens).where(enrolment_tokens.c.id == token["id"]).values(remaining))


def refuse_token(problem: str) -> Refused:
    """Return the refusal of an enrolment with a token that is not accepted."""
    return Refused(403, "bad-enrolment-token", f"the enrolment token {problem}: create a new one")


def enrolment_routes(service: Service) -> list[BaseRoute]:
    """Return the routes at which devices get certificates."""

    limit = RateLimit(MOST_REFUSALS, MINUTE)

    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        name = ""
        try:
            if limit.is_reached(address, service.clock()):
                raise Refused(429, "too-many-requests", "too many enrolments were refused: try again in a minute", 60)
            message = parse_request(await read_anonymous_body(request))
            name = message.device
            return await enrol_device(service, message, address)
        except Refused as refusal:
            if refusal.status == 403:  # what only a wrong token causes; the log must not fill the disk
                limit.count(address, service.clock())
                origin, reason = Origin(f"device {name}", address, service.clock()), refusal.message
                await service.database.change(
                    lambda connection: record_event(connection, origin, "enrolment refused", name, reason=reason)
                )
            return answer_refusal(refusal)
        except ClientDisconnect:
            return Response(status_code=400)

    async def renew(request: Request) -> Response:
        try:
            message = parse_request(await read_anonymous_body(request))
            certificate = client_certificate(request)
            if certificate is None or certified_name(request, service, RENEWAL_GRACE) != message.device:
                raise Refused(401, "not-authenticated", "")
            origin = Origin(f"device {message.device}", request.client.host if request.client else "", service.clock())
            return await renew_certificate(service, message, certificate, origin)
        except Refused as refusal:
            return answer_refusal(refusal)
        except ClientDisconnect:
            return Response(status_code=400)

    return [
        ApiRoute(ENROL, enrol, {"POST": enrol}, ApiAccess.everybody),
        ApiRoute(RENEW, renew, {"POST": renew}, ApiAccess.everybody),
    ]


def parse_request(body: bytes) -> EnrolmentRequest:
    """Return the request in a body. Raises `Refused`."""
    message = decode_json(body, EnrolmentRequest)
    check_name(message.device)
    return message


async def enrol_device(service: Service, message: EnrolmentRequest, address: str) -> Response:
    """Register a device, and return its certificate. Older certificates of the device are not accepted any more."""
    now, name = service.clock(), message.device

    def check(connection: Connection) -> None:
        check_token(connection, message, find_device(connection, name), now)

    service.database.read(check)  # before the certificate is made, which costs time
    certificate = issue_device_certificate(service.authority, name, message.request.encode())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_hash = hashlib.sha256(key).digest()

    def enrol(connection: Connection) -> None:
        known = find_device(connection, name)
        token = check_token(connection, message, known, now)
        use_token(connection, token, known, key_hash)
        device = register_device(connection, name, now)
        number = token._mapping["id"]
        values = {"enrolled": now, "enrolment_token": number, "key_hash": key_hash, "decommissioned": None}
        values["attributes_wanted"] = True  # it may run another version than the device of this name before
        connection.execute(update(devices).where(devices.c.id == device.id).values(values))
        revoke_certificates(connection, device.id, now)
        record_certificate(connection, device.id, certificate)
        record_event(connection, Origin(f"device {name}", address, now), "device enrolled", name, token=number)

    await service.database.change(enrol)
    return answer_certificate(certificate)


async def renew_certificate(
    service: Service, message: EnrolmentRequest, presented: ClientCertificate, origin: Origin
) -> Response:
    """Return a new certificate of a device. The presented one stays accepted, if this answer is lost; others not."""
    now, name = origin.time, message.device
    certificate = issue_device_certificate(service.authority, name, message.request.encode())

    def renew(connection: Connection) -> None:
        device = find_device(connection, name)
        if device is None or not is_accepted(connection, presented, now, RENEWAL_GRACE):  # revoked in the meantime
            raise Refused(401, "not-authenticated", "")
        revoke_certificates(connection, device.id, now, but=presented.serial)
        record_certificate(connection, device.id, certificate)
        record_event(connection, origin, "certificate renewed", name)

    await service.database.change(renew)
    return answer_certificate(certificate)


def answer_certificate(certificate: x509.Certificate) -> Response:
    """Return the answer with a certificate as PEM."""
    return Response(to_pem(certificate), media_type="application/pem-certificate-chain")
