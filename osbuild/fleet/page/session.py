"""Who uses the web page: people sign in with an access token, and get a session of some hours."""

import hashlib
import hmac
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select
from starlette.requests import Request

from osbuild.fleet.audit import Origin
from osbuild.fleet.management.access import Role
from osbuild.fleet.refusal import Refused
from osbuild.fleet.requester import note_requester
from osbuild.fleet.service import Service
from osbuild.fleet.tables import access_tokens, sessions
from osbuild.fleet.tokens import hash_token, make_token

COOKIE = "__Host-edge-session"  # browsers accept it only with Secure and Path=/ (RFC 6265bis, section 4.1.3)
HOURS = 12
PREFIX = "edge_session"
FIELD = "csrf"


@dataclass(frozen=True)
class PageUser:
    """Somebody who has signed in. `form_token` is a part of every form, so that no other site can send one.

    `expires` is the end of the session in milliseconds since 1970.
    """

    name: str
    role: Role
    secret: str
    expires: int

    @property
    def form_token(self) -> str:
        return hashlib.sha256(f"form {self.secret}".encode()).hexdigest()

    def may(self, role: str) -> bool:
        """Whether the user may do what needs a role."""
        return self.role >= Role[role]


def sign_in(connection: Connection, token: str, now: int) -> str:
    """Return the secret of a new session for an access token. Raises `Refused`."""
    row = connection.execute(select(access_tokens).where(access_tokens.c.hash == hash_token(token))).first()
    if row is None or row.revoked is not None or row.expires <= now:
        raise Refused(403, "bad-token", "this access token is not valid")
    connection.execute(delete(sessions).where(sessions.c.expires <= now))
    secret = make_token(PREFIX)
    values = {"hash": hash_token(secret), "token": row.id, "expires": now + HOURS * 3_600_000}
    connection.execute(insert(sessions).values(values))
    return secret


def check_site(request: Request) -> None:
    """Raise `Refused` if a browser sends a request for a page of another site (Fetch Metadata, W3C; RFC 6454).

    Otherwise another site could sign its visitors in with a token of its own.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site not in (None, "same-origin", "none") or (site is None and origin not in (None, own)):
        raise Refused(403, "foreign-form", "this form is not from this page: load the page again")


def sign_out(connection: Connection, secret: str) -> None:
    """End a session."""
    connection.execute(delete(sessions).where(sessions.c.hash == hash_token(secret)))


def find_user(request: Request, service: Service) -> PageUser | None:
    """Return who sends a request; None if nobody has signed in, or the session or its token has ended."""
    secret = request.cookies.get(COOKIE, "")
    chosen = (
        select(access_tokens.c.name, access_tokens.c.role, access_tokens.c.expires, sessions.c.expires.label("end"))
        .join(sessions, sessions.c.token == access_tokens.c.id)
        .where(sessions.c.hash == hash_token(secret), sessions.c.expires > service.clock())
        .where(access_tokens.c.revoked.is_(None), access_tokens.c.expires > service.clock())
    )
    row = service.database.read(lambda connection: connection.execute(chosen).first())
    if row is None:
        return None
    note_requester(request, "token", row.name)
    return PageUser(row.name, Role[row.role], secret, min(row.expires, row.end))


def check_form(user: PageUser, form: dict[str, str], role: Role) -> None:
    """Raise `Refused` if a form is not from a page of this session, or its user may not do what it orders."""
    if not hmac.compare_digest(form.get(FIELD, "").encode(errors="replace"), user.form_token.encode()):
        raise Refused(403, "foreign-form", "this form is not from this page: load the page again")
    if user.role < role:
        raise Refused(403, "not-allowed", f"this needs the role {role.name}, and you have {user.role.name}")


def origin_of(user: PageUser, request: Request, now: int) -> Origin:
    """Return who makes a change with the page, for the audit log."""
    return Origin(user.name, request.client.host if request.client else "", now)
