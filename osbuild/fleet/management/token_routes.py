"""The addresses of tokens in the management API: those of people, and those with which devices enrol."""

import secrets

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.routing import BaseRoute

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.database import revoke_rows
from osbuild.fleet.devices import check_name, register_device
from osbuild.fleet.enrolment_tokens import EnrolmentToken, TokenOrder, create_enrolment_token
from osbuild.fleet.management.access import Role, create_access_token, has_role
from osbuild.fleet.management.endpoint import make_route
from osbuild.fleet.management.messages import (
    AccessTokenView,
    CreatedAccessToken,
    EmptyAnswer,
    EnrolmentTokenView,
    NewAccessToken,
    NewEnrolmentToken,
    TargetToken,
)
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.request_body import decode_json, read_body
from osbuild.fleet.service import Service
from osbuild.fleet.tables import access_tokens, enrolment_tokens

SECOND = 1000  # milliseconds


def token_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of tokens."""
    return [
        make_route(service, "/tokens", "GET", Role.admin, get_access_tokens),
        make_route(service, "/tokens", "POST", Role.admin, post_access_token),
        make_route(service, "/tokens/{name}", "DELETE", Role.admin, delete_access_token),
        make_route(service, "/enrolment-tokens", "GET", Role.viewer, get_enrolment_tokens),
        make_route(service, "/enrolment-tokens", "POST", Role.operator, post_enrolment_token),
        make_route(service, "/enrolment-tokens/{number:number}", "DELETE", Role.operator, delete_enrolment_token),
        make_route(service, "/devices/{name}/target-token", "POST", Role.admin, post_target_token),
    ]


async def get_access_tokens(_request: Request, service: Service, _origin: Origin) -> list[AccessTokenView]:
    columns = (access_tokens.c[name] for name in AccessTokenView.__struct_fields__)
    chosen = select(*columns).order_by(access_tokens.c.id)
    return service.database.read(lambda c: [AccessTokenView(*row) for row in c.execute(chosen)])


async def post_access_token(request: Request, service: Service, origin: Origin) -> CreatedAccessToken:
    order = decode_json(await read_body(request), NewAccessToken)
    if order.role not in Role.__members__:
        raise Refused(400, "bad-role", f"a role is one of {', '.join(Role.__members__)}")
    expires = origin.time + order.seconds * SECOND
    created = await service.database.change(
        lambda c: create_access_token(c, order.name, Role[order.role], expires, origin)
    )
    return CreatedAccessToken(created.name, created.token, created.role.name, created.expires)


async def delete_access_token(request: Request, service: Service, origin: Origin) -> EmptyAnswer:
    name = request.path_params["name"]

    def revoke(connection: Connection) -> None:
        if not revoke_rows(connection, access_tokens, access_tokens.c.name == name, origin.time):
            raise not_found(f"there is no token {name} that is valid")
        record_event(connection, origin, "access token revoked", name)

    await service.database.change(revoke)
    return EmptyAnswer()


async def get_enrolment_tokens(_request: Request, service: Service, _origin: Origin) -> list[EnrolmentTokenView]:
    columns = (enrolment_tokens.c[name] for name in EnrolmentTokenView.__struct_fields__)
    chosen = select(*columns).order_by(enrolment_tokens.c.id)
    return service.database.read(lambda c: [EnrolmentTokenView(*row) for row in c.execute(chosen)])


async def post_enrolment_token(request: Request, service: Service, origin: Origin) -> EnrolmentToken:
    order = decode_json(await read_body(request), NewEnrolmentToken)
    if order.device is not None:
        check_name(order.device)
    expires, admin = origin.time + order.seconds * SECOND, has_role(request, service, Role.admin)
    token = TokenOrder(order.uses, expires, order.note, order.device, admin)
    return await service.database.change(lambda connection: create_enrolment_token(connection, token, origin))


async def delete_enrolment_token(request: Request, service: Service, origin: Origin) -> EmptyAnswer:
    number = request.path_params["number"]

    def revoke(connection: Connection) -> None:
        if not revoke_rows(connection, enrolment_tokens, enrolment_tokens.c.id == number, origin.time):
            raise not_found(f"there is no enrolment token {number} that is valid")
        record_event(connection, origin, "enrolment token revoked", str(number))

    await service.database.change(revoke)
    return EmptyAnswer()


async def post_target_token(request: Request, service: Service, origin: Origin) -> TargetToken:
    """Create the own token of a device that does not enrol, such as one with rauc-hawkbit-updater."""
    name, token = request.path_params["name"], secrets.token_hex(16)

    def create(connection: Connection) -> None:
        register_device(connection, name, origin.time, token)
        record_event(connection, origin, "target token created", name)

    await service.database.change(create)
    return TargetToken(token)
