"""Requests of operators to devices: created, delivered, answered, expired."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from osbuild.fleet.database import insert_row
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.states import REQUEST_ENDED, RequestState
from osbuild.fleet.tables import devices, request_archives, requests
from osbuild.shared.operator_requests import RequestKind, RequestResult

MOST_OPEN = 20  # of one device
MOST_ARCHIVES = 5  # of one device; older ones are removed
ARCHIVE_AGE = 30 * 24 * 3600 * 1000  # milliseconds until diagnostics are removed
GRACE = 3600 * 1000  # milliseconds after its end in which a delivered request may still be answered
MOST_LINES, LONGEST_LINE = 20, 512  # of an answer
OPEN = (RequestState.waiting, RequestState.delivered)


@dataclass(frozen=True)
class FleetRequest:
    """A row of the table `requests`. `details` are lines of the device, `who` is the name of the operator's token."""

    id: int
    device: int
    kind: RequestKind
    state: RequestState
    who: str
    document: str
    created: int
    expires: int
    ended: int | None
    details: tuple[str, ...]


@dataclass(frozen=True)
class SignedRequest:
    """A request to create, with its signed form. Times are in milliseconds since 1970."""

    kind: RequestKind
    who: str
    document: str
    created: int
    expires: int


def make_request_id() -> str:
    """Return a random id, by which a device recognizes a request that it has seen."""
    return secrets.token_hex(16)


def create_request(connection: Connection, device: int, order: SignedRequest) -> FleetRequest:
    """Store a request for a device. Raises `Refused` if too many wait."""
    waiting = select(func.count()).select_from(requests).where(requests.c.device == device, requests.c.state.in_(OPEN))
    if connection.execute(waiting).scalar_one() >= MOST_OPEN:
        raise Refused(409, "too-many-requests", f"{MOST_OPEN} requests wait for the device: wait until they expire")
    values = {
        "device": device, "kind": order.kind, "state": RequestState.waiting, "who": order.who,
        "document": order.document, "created": order.created, "expires": order.expires,
    }  # fmt: skip
    number = insert_row(connection, requests, values)
    _offer_next(connection, device)
    return read_request(connection, number)


def read_request(connection: Connection, number: int, device: int | None = None) -> FleetRequest:
    """Return a request, of `device` if it is given. Raises `Refused` if there is none."""
    chosen = select(requests).where(requests.c.id == number)
    row = connection.execute(chosen if device is None else chosen.where(requests.c.device == device)).first()
    if row is None:
        raise not_found(f"there is no request {number}")
    return _request(row)


def list_requests(connection: Connection, most: int, device: int | None = None) -> list[FleetRequest]:
    """Return the newest requests, of one device if it is given: at most `most`."""
    chosen = select(requests).order_by(requests.c.id.desc()).limit(most)
    if device is not None:
        chosen = chosen.where(requests.c.device == device)
    return [_request(row) for row in connection.execute(chosen)]


def deliver_request(connection: Connection, device: int, number: int, now: int) -> FleetRequest:
    """Return a request that its device asks for, which is delivered now. Raises `Refused` if it has ended."""
    request = read_request(connection, number, device)
    if request.state is RequestState.waiting and request.expires > now:
        connection.execute(update(requests).where(requests.c.id == number).values(state=RequestState.delivered))
    elif request.state is not RequestState.delivered:
        raise Refused(410, "request-ended", f"the request {number} has ended: {request.state}")
    return request


def answer_request(
    connection: Connection, request: FleetRequest, result: RequestResult, lines: Sequence[str], now: int
) -> None:
    """Store how a delivered request has ended. Raises `Refused` if it is not one that waits for that."""
    if request.state is not RequestState.delivered:
        raise Refused(410, "request-ended", f"the request {request.id} waits for no result: {request.state}")
    details = [line[:LONGEST_LINE] for line in lines[:MOST_LINES]]
    _end_requests(connection, requests.c.id == request.id, RequestState(result), details, now)
    _offer_next(connection, request.device)


def store_archive(connection: Connection, request: FleetRequest, content: bytes, now: int) -> None:
    """Store the diagnostics of a delivered request; older ones of the device are removed. Raises `Refused`."""
    if request.state is not RequestState.delivered or request.kind is not RequestKind.diagnostics:
        raise Refused(410, "request-ended", f"the request {request.id} waits for no diagnostics")
    connection.execute(delete(request_archives).where(request_archives.c.request == request.id))
    values = {"request": request.id, "created": now, "content": content}
    connection.execute(insert(request_archives).values(values))
    own = select(requests.c.id).where(requests.c.device == request.device)
    kept = (
        select(request_archives.c.request)
        .where(request_archives.c.request.in_(own))
        .order_by(request_archives.c.request.desc())
        .limit(MOST_ARCHIVES)
    )
    newest = [*connection.execute(kept).scalars()]
    older = request_archives.c.request.in_(own) & request_archives.c.request.not_in(newest)
    connection.execute(delete(request_archives).where(older))


def read_archive(connection: Connection, number: int) -> bytes:
    """Return the diagnostics of a request. Raises `Refused` if there are none."""
    chosen = select(request_archives.c.content).where(request_archives.c.request == number)
    content = connection.execute(chosen).scalar_one_or_none()
    if content is None:
        raise not_found(f"the request {number} has no diagnostics, or they were removed")
    return bytes(content)


def with_archives(connection: Connection, numbers: Sequence[int]) -> frozenset[int]:
    """Return those of some requests that have diagnostics."""
    chosen = select(request_archives.c.request).where(request_archives.c.request.in_(numbers))
    return frozenset(connection.execute(chosen).scalars())


def expire_requests(connection: Connection, now: int) -> None:
    """End requests whose time is over, and remove old diagnostics."""
    late = (requests.c.state == RequestState.waiting) & (requests.c.expires <= now)
    silent = (requests.c.state == RequestState.delivered) & (requests.c.expires <= now - GRACE)
    for chosen, reason in (
        (late, "the device has not asked for it in time"),
        (silent, "the device has not said how it has ended"),
    ):
        changed = set(connection.execute(select(requests.c.device).where(chosen)).scalars())
        if changed:
            _end_requests(connection, chosen, RequestState.expired, [reason], now)
        for device in changed:
            _offer_next(connection, device)
    connection.execute(delete(request_archives).where(request_archives.c.created <= now - ARCHIVE_AGE))


def end_requests(connection: Connection, device: int, now: int) -> None:
    """End all requests of a device that is not asked any more."""
    waiting = (requests.c.device == device) & requests.c.state.in_(OPEN)
    _end_requests(connection, waiting, RequestState.expired, ["the device is decommissioned"], now)
    _offer_next(connection, device)


def _offer_next(connection: Connection, device: int) -> None:
    """Note at the device which request it is told: the oldest one that has not ended."""
    chosen = select(func.min(requests.c.id)).where(requests.c.device == device, requests.c.state.in_(OPEN))
    number = connection.execute(chosen).scalar_one_or_none()
    connection.execute(update(devices).where(devices.c.id == device).values(open_request=number))


def _end_requests(
    connection: Connection, chosen: ColumnElement[bool], state: RequestState, details: list[str], now: int
) -> None:
    assert state in REQUEST_ENDED
    values = {"state": state, "ended": now, "details": json.dumps(details)}
    connection.execute(update(requests).where(chosen).values(values))


def _request(row: Row[tuple[object, ...]]) -> FleetRequest:
    values = dict(row._mapping)
    parsed = {"kind": RequestKind(values["kind"]), "state": RequestState(values["state"])}
    return FleetRequest(**{**values, **parsed, "details": tuple(json.loads(values["details"]))})
