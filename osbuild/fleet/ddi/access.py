"""Which device a request comes from (DDI, "Authentication")."""

import hmac

from cryptography import x509
from sqlalchemy import Connection
from starlette.requests import Request

from osbuild.fleet.certificates import find_certified_device, serial_of
from osbuild.fleet.devices import FleetDevice, check_name, find_device, register_device
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service
from osbuild.fleet.tokens import hash_token

TARGET, GATEWAY = "TargetToken", "GatewayToken"
SERIAL = "edge_osbuild_serial"


async def identify_device(request: Request, service: Service) -> FleetDevice:
    """Return the device that a request comes from. Raises `Refused` if it does not prove that.

    A device proves who it is with its certificate, or with its own token. A gateway's token is accepted for all
    devices, and registers those that are unknown.
    """
    name = request.path_params["device"]
    check_name(name)
    device = service.database.read(lambda connection: find_device(connection, name))
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    trusted = certified_name(request, service) == name or (
        scheme == GATEWAY
        and service.gateway_hash is not None
        and hmac.compare_digest(service.gateway_hash, hash_token(token))
    )
    if not trusted and not (device is not None and scheme == TARGET and device.accepts_token(token)):
        raise Refused(401, "not-authenticated", "")
    if device is None:
        now = service.clock()

        def register(connection: Connection) -> FleetDevice:
            return register_device(connection, name, now)

        device = await service.database.change(register)
    service.note_contact(device.id, request.client.host if request.client else "")
    return device


def certified_name(request: Request, service: Service) -> str | None:
    """Return the name of the device whose certificate the client has; None if it has none, or a revoked one."""
    tls = request.scope.get("extensions", {}).get("tls")
    if tls is None:
        return None
    if SERIAL not in tls:  # read once for each connection; the TLS layer has verified the certificate
        tls[SERIAL] = serial_of(x509.load_pem_x509_certificate(tls["client_cert_chain"][0].encode()))
    serial: str = tls[SERIAL]
    return service.database.read(lambda connection: find_certified_device(connection, serial))
