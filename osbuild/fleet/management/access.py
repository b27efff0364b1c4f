"""Who may do what: tokens of people and scripts, and their roles."""

from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import Connection, select
from starlette.requests import Request

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.database import insert_row
from osbuild.fleet.refusal import Refused
from osbuild.fleet.requester import note_requester
from osbuild.fleet.service import Service
from osbuild.fleet.tables import access_tokens
from osbuild.fleet.tokens import hash_token, make_token

PREFIX = "edge_access"


class Role(IntEnum):
    """What the owner of a token may do. Each role may do what those before it may."""

    viewer = 1
    operator = 2
    admin = 3


@dataclass(frozen=True)
class AccessToken:
    """A token that was created. `expires` is in milliseconds since 1970."""

    id: int
    name: str
    token: str
    role: Role
    expires: int


def create_access_token(connection: Connection, name: str, role: Role, expires: int, origin: Origin) -> AccessToken:
    """Create a token for a person or a script. Raises `Refused` if the name is used already."""
    if connection.execute(select(access_tokens.c.id).where(access_tokens.c.name == name)).first():
        raise Refused(409, "token-exists", f"there is a token named {name} already")
    token = make_token(PREFIX)
    values = {"hash": hash_token(token), "name": name, "role": role.name, "created": origin.time, "expires": expires}
    number = insert_row(connection, access_tokens, values)
    record_event(connection, origin, "access token created", name, role=role.name, expires=expires)
    return AccessToken(number, name, token, role, expires)


def authorize(request: Request, service: Service, role: Role) -> Origin:
    """Return who sends a request. Raises `Refused` if that is unknown, or may not do what needs `role`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer":
        raise Refused(401, "not-authenticated", "")
    chosen = select(access_tokens).where(access_tokens.c.hash == hash_token(token))
    row = service.database.read(lambda connection: connection.execute(chosen).first())
    if row is None or row.revoked is not None or row.expires <= service.clock():
        raise Refused(401, "not-authenticated", "")
    note_requester(request, "token", row.name)
    if Role[row.role] < role:
        raise Refused(403, "not-allowed", f"this needs the role {role.name}, and the token {row.name} has {row.role}")
    return Origin(row.name, request.client.host if request.client else "", service.clock())


def has_role(request: Request, service: Service, role: Role) -> bool:
    """Whether whoever sends a request may do what needs `role`."""
    try:
        authorize(request, service, role)
    except Refused:
        return False
    return True
