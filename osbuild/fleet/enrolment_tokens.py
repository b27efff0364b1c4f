"""Enrolment tokens: how they are created, and for which device each of them may be used."""

from dataclasses import dataclass
from typing import NamedTuple, cast

from sqlalchemy import Connection, select, update

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.database import insert_row, revoke_rows
from osbuild.fleet.devices import FleetDevice, find_device
from osbuild.fleet.refusal import Refused
from osbuild.fleet.tables import enrolment_tokens
from osbuild.fleet.tokens import hash_token, make_token

PREFIX = "edge_enrol"


@dataclass(frozen=True)
class EnrolmentToken:
    """A token that was created, and what it may be used for. `expires` is in milliseconds since 1970."""

    id: int
    token: str
    uses: int
    expires: int


@dataclass(frozen=True)
class TokenOrder:
    """A token to create, for `uses` devices, or only for the one named `device`. See `EnrolmentToken`.

    Only an `admin` may order one for a device that was decommissioned.
    """

    uses: int
    expires: int
    note: str = ""
    device: str | None = None
    admin: bool = False


class StoredToken(NamedTuple):
    """What decides whether a device may use a token: columns of the table `enrolment_tokens`."""

    id: int
    device: str | None
    uses_left: int
    created: int
    expires: int
    revoked: int | None


FIND_TOKEN = select(*(enrolment_tokens.c[name] for name in StoredToken._fields))


def create_enrolment_token(connection: Connection, order: TokenOrder, origin: Origin) -> EnrolmentToken:
    """Create a token with which devices may enrol. Raises `Refused`."""
    known = None if order.device is None else find_device(connection, order.device)
    if known is not None and known.decommissioned is not None and not order.admin:
        message = f"this needs the role admin, because the device {known.name} is decommissioned"
        raise Refused(403, "not-allowed", message)
    token = make_token(PREFIX)
    values = {
        "hash": hash_token(token), "note": order.note, "device": order.device, "uses_left": order.uses,
        "created": origin.time, "expires": order.expires,
    }  # fmt: skip
    number = insert_row(connection, enrolment_tokens, values)
    details = {"uses": order.uses, "expires": order.expires, "note": order.note}
    if known is None:
        record_event(connection, origin, "enrolment token created", str(number), **details, device=order.device)
    else:
        event = "enrolment token for known device created"
        decommissioned = known.decommissioned is not None
        record_event(connection, origin, event, known.name, token=number, **details, decommissioned=decommissioned)
    return EnrolmentToken(number, token, order.uses, order.expires)


def revoke_tokens_of(connection: Connection, device: str, now: int) -> int:
    """Revoke the tokens that are only for the name `device`, and return how many they were."""
    return revoke_rows(connection, enrolment_tokens, enrolment_tokens.c.device == device, now)


def check_token(connection: Connection, token: str, name: str, known: FleetDevice | None, now: int) -> StoredToken:
    """Return the token that the device `name` may use. Raises `Refused`. `known` is the device of this name."""
    row = connection.execute(FIND_TOKEN.where(enrolment_tokens.c.hash == hash_token(token))).first()
    if row is None:
        raise refuse_token("is unknown")
    stored = StoredToken(*cast("tuple[int, str | None, int, int, int, int | None]", tuple(row)))
    if stored.revoked is not None:
        raise refuse_token("was revoked")
    if stored.expires <= now:
        raise refuse_token("has expired")
    if stored.device not in (None, name):
        raise refuse_token("is for another device")
    if known is not None and not is_repeated(stored, known):
        # Otherwise a device that has a token for many could take over the names of the others.
        if stored.device is None:
            raise refuse_token("is not for a device that is known already; use one that is only for its name")
        if known.decommissioned is not None and stored.created <= known.decommissioned:
            raise refuse_token("is older than the decommissioning of the device of this name")
        if known.enrolled is not None and stored.created <= known.enrolled:
            raise refuse_token("is older than the enrolment of a device of this name")
    return stored


def use_token(connection: Connection, token: StoredToken, known: FleetDevice | None, key_hash: bytes) -> None:
    """Use up one use of a token, unless the same key used it before: its answer was lost. Raises `Refused`."""
    if known is not None and is_repeated(token, known):
        if known.key_hash != key_hash:
            raise refuse_token("was used already by a device of this name with another key")
        return
    if token.uses_left < 1:
        raise refuse_token("was used already")
    remaining = {"uses_left": token.uses_left - 1}
    connection.execute(update(enrolment_tokens).where(enrolment_tokens.c.id == token.id).values(remaining))


def is_repeated(token: StoredToken, known: FleetDevice) -> bool:
    """Whether a device, which is in use, has enrolled with this token."""
    return known.decommissioned is None and known.enrolment_token == token.id


def refuse_token(problem: str) -> Refused:
    """Return the refusal of an enrolment with a token that is not accepted."""
    return Refused(403, "bad-enrolment-token", f"the enrolment token {problem}: create a new one")
