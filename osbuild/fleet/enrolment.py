"""Enrolment: with a token, a device gets its first certificate. With its certificate, it gets the next one."""

from dataclasses import dataclass

import msgspec
from cryptography import x509
from sqlalchemy import Connection, select, update
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.authorities import issue_device_certificate
from osbuild.fleet.certificates import record_certificate, revoke_certificates
from osbuild.fleet.database import insert_row
from osbuild.fleet.ddi.access import certified_name
from osbuild.fleet.ddi.answers import answer_refusal
from osbuild.fleet.ddi.endpoint import read_body
from osbuild.fleet.devices import check_name, find_device, register_device
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service
from osbuild.fleet.tables import devices, enrolment_tokens
from osbuild.fleet.tokens import hash_token, make_token
from osbuild.keys.certificate import to_pem

PREFIX = "edge_enrol"
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


def create_enrolment_token(
    connection: Connection, uses: int, expires: int, origin: Origin, note: str = ""
) -> EnrolmentToken:
    """Create a token with which `uses` devices may enrol until `expires`."""
    token = make_token(PREFIX)
    values = {"hash": hash_token(token), "note": note, "uses_left": uses, "created": origin.time, "expires": expires}
    number = insert_row(connection, enrolment_tokens, values)
    record_event(connection, origin, "enrolment token created", str(number), uses=uses, expires=expires, note=note)
    return EnrolmentToken(number, token, uses, expires)


def use_token(connection: Connection, token: str, enrolled: int | None, now: int) -> int:
    """Use up one use of a token, and return its id. Raises `Refused`.

    `enrolled` is when the device enrolled before; then only a newer token is accepted.
    """
    row = connection.execute(select(enrolment_tokens).where(enrolment_tokens.c.hash == hash_token(token))).first()
    if row is None:
        raise refuse_token("is unknown")
    if row.revoked is not None:
        raise refuse_token("was revoked")
    if row.expires <= now:
        raise refuse_token("has expired")
    if row.uses_left < 1:
        raise refuse_token("was used already")
    # Otherwise one device that has the token of many could take over the names of the others.
    if enrolled is not None and row.created <= enrolled:
        raise refuse_token("is older than the enrolment of a device of this name")
    remaining = {"uses_left": row.uses_left - 1}
    connection.execute(update(enrolment_tokens).where(enrolment_tokens.c.id == row.id).values(remaining))
    return int(row.id)


def refuse_token(problem: str) -> Refused:
    """Return the refusal of an enrolment with a token that is not accepted."""
    return Refused(403, "bad-enrolment-token", f"the enrolment token {problem}: create a new one")


def enrolment_routes(service: Service) -> list[BaseRoute]:
    """Return the routes at which devices get certificates."""

    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        name = ""
        try:
            message = parse_request(await read_body(request))
            name = message.device
            return await enrol_device(service, message, address)
        except Refused as refusal:
            origin, reason = Origin(f"device {name}", address, service.clock()), refusal.message
            await service.database.change(
                lambda connection: record_event(connection, origin, "enrolment refused", name, reason=reason)
            )
            return answer_refusal(refusal)

    async def renew(request: Request) -> Response:
        try:
            message = parse_request(await read_body(request))
            if certified_name(request, service) != message.device:
                raise Refused(401, "not-authenticated", "")
            return await renew_certificate(service, message)
        except Refused as refusal:
            return answer_refusal(refusal)

    return [Route(ENROL, enrol, methods=["POST"]), Route(RENEW, renew, methods=["POST"])]


def parse_request(body: bytes) -> EnrolmentRequest:
    """Return the request in a body. Raises `Refused`."""
    try:
        message = msgspec.json.decode(body, type=EnrolmentRequest)
    except msgspec.DecodeError as error:
        raise Refused(400, "bad-body", f"the body can't be read: {error}") from error
    check_name(message.device)
    return message


async def enrol_device(service: Service, message: EnrolmentRequest, address: str) -> Response:
    """Register a device, and return its certificate. Older certificates of the device are not accepted any more."""
    now, name = service.clock(), message.device
    certificate = issue_device_certificate(service.authority, name, message.request.encode())

    def enrol(connection: Connection) -> None:
        known = find_device(connection, name)
        token = use_token(connection, message.token, None if known is None else known.enrolled, now)
        device = register_device(connection, name, now)
        connection.execute(update(devices).where(devices.c.id == device.id).values(enrolled=now))
        revoke_certificates(connection, device.id, now)
        record_certificate(connection, device.id, certificate)
        record_event(connection, Origin(f"device {name}", address, now), "device enrolled", name, token=token)

    await service.database.change(enrol)
    return answer_certificate(certificate)


async def renew_certificate(service: Service, message: EnrolmentRequest) -> Response:
    """Return a new certificate of a device. The older one is accepted until its end, in case this answer is lost."""
    name = message.device
    certificate = issue_device_certificate(service.authority, name, message.request.encode())

    def renew(connection: Connection) -> None:
        device = find_device(connection, name)
        assert device is not None
        record_certificate(connection, device.id, certificate)

    await service.database.change(renew)
    return answer_certificate(certificate)


def answer_certificate(certificate: x509.Certificate) -> Response:
    """Return the answer with a certificate as PEM."""
    return Response(to_pem(certificate), media_type="application/pem-certificate-chain")
