"""Pages from templates (jinja2), with headers that let a browser load nothing from elsewhere."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.responses import Response

from osbuild.fleet.audit_text import TIMES, format_detail
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.rollout.plan_text import format_duration
from osbuild.fleet.service import current_milliseconds
from osbuild.shared.quoting import escaped
from osbuild.shared.sizes import format_bytes

FOLDER = Path(__file__).parent
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
# Content Security Policy Level 3 (W3C).
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=31536000",
}


# How the states of devices, actions, rollouts and groups look; others have no colour.
LOOKS = {
    "healthy": "good", "finished": "good", "succeeded": "good", "downloaded": "good", "confirmed": "good",
    "not healthy": "bad", "failed": "bad", "aborted": "bad", "rejected": "bad",
    "update failed": "warn", "paused": "warn", "cancelling": "warn", "not seen": "gone", "expired": "gone",
    "running": "busy", "scheduled": "busy", "waiting for confirmation": "busy", "delivered": "busy",
}  # fmt: skip
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def choose_look(state: str) -> str:
    """Return the class of the style sheet for a state."""
    return LOOKS.get(state, "idle")


def format_age(milliseconds: int | None, now: int) -> str:
    """Return for people how long ago a time was, or how far away it is."""
    if milliseconds is None:
        return "never"
    seconds = abs(now - milliseconds) // 1000
    for length, unit in UNITS:
        if count := seconds // length:
            text = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"{text} ago" if milliseconds <= now else f"in {text}"
    return "just now" if milliseconds <= now else "in less than a minute"


def format_iso(milliseconds: int) -> str:
    """Return a time as programs read it (RFC 3339)."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def format_moment(milliseconds: int | None) -> str:
    """Return a time for people, in UTC."""
    if milliseconds is None:
        return "never"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_controls(value: object) -> object:
    """Return a value of a template; a text has escapes for characters that would change the order of others."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return escaped(value.replace("\r\n", "\n"), lines=True)


def make_environment() -> jinja2.Environment:
    """Return the templates. They escape everything, and fail if something is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=show_controls,
    )  # fmt: skip
    environment.filters["moment"] = format_moment
    environment.filters |= {"look": choose_look, "age": format_age, "iso": format_iso, "bytes": format_bytes}
    environment.filters |= {"duration": format_duration, "detail": format_detail}
    environment.globals["detail_times"] = TIMES
    return environment


ENVIRONMENT = make_environment()


def render_page(template: str, user: PageUser | None, status: int = 200, /, **values: Any) -> Response:
    """Return a page from a template."""
    text = ENVIRONMENT.get_template(template).render(user=user, now=current_milliseconds(), **values)
    return Response(text, status, HEADERS, media_type="text/html")


def static_file(name: str) -> Response:
    """Return the style sheet or the script."""
    headers = {**HEADERS, "cache-control": "max-age=3600"}
    return Response((FOLDER / "static" / name).read_bytes(), 200, headers, media_type=STATIC[name])
