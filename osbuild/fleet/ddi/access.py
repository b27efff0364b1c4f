"""Which device a request comes from (DDI, "Authentication")."""

import hmac

from sqlalchemy import Connection
from starlette.requests import Request

from osbuild.fleet.certificates import ClientCertificate, is_accepted
from osbuild.fleet.devices import FleetDevice, check_name, find_device, register_device
from osbuild.fleet.refusal import Refused
from osbuild.fleet.requester import note_requester
from osbuild.fleet.service import Service
from osbuild.fleet.tokens import hash_token

TARGET, GATEWAY = "TargetToken", "GatewayToken"
PARSED = "edge_osbuild_certificate"


async def identify_device(request: Request, service: Service) -> FleetDevice:
    """Return the device that a request comes from. Raises `Refused` if it does not prove that.

    A device proves who it is with its certificate, or with its own token. A gateway's token is accepted for all
    devices, and registers those that are unknown.
    """
    name = request.path_params["device"]
    device = service.database.read(lambda connection: find_device(connection, name))
    if device is None:
        check_name(name)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if device is not None and device.decommissioned is not None:
        raise Refused(401, "not-authenticated", "")
    trusted = certified_name(request, service) == name or (
        scheme == GATEWAY
        and service.gateway_hash is not None
        and hmac.compare_digest(service.gateway_hash, hash_token(token))
    )
    if not trusted and not (device is not None and scheme == TARGET and device.accepts_token(token)):
        raise Refused(401, "not-authenticated", "")
    note_requester(request, "device", name)
    if device is None:
        now = service.clock()

        def register(connection: Connection) -> FleetDevice:
            return register_device(connection, name, now)

        device = await service.database.change(register)
    service.note_contact(device.id, request.client.host if request.client else "")
    return device


def certified_name(request: Request, service: Service, grace: int = 0) -> str | None:
    """Return the name of the device whose certificate the client has; None if it has none, or one that is not accepted.

    It may have ended `grace` milliseconds ago.
    """
    certificate = client_certificate(request)
    if certificate is None:
        return None
    accepted = service.database.read(lambda connection: is_accepted(connection, certificate, service.clock(), grace))
    return certificate.name if accepted else None


def client_certificate(request: Request) -> ClientCertificate | None:
    """Return the certificate of the client, which the TLS layer has verified but for its end; None if it has none."""
    tls = request.scope.get("extensions", {}).get("tls")
    if tls is None:
        return None
    if PARSED not in tls:  # once for each connection
        tls[PARSED] = ClientCertificate.parse(tls["client_cert_chain"][0].encode())
    parsed: ClientCertificate = tls[PARSED]
    return parsed
