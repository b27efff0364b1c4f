"""Pages from templates (jinja2), with headers that let a browser load nothing from elsewhere."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import Response

from osbuild.fleet.page.session import PageUser
from osbuild.fleet.rollout.plan_text import format_duration

FOLDER = Path(__file__).parent
STATIC = {"style.css": "text/css", "live.js": "text/javascript"}
# Content Security Policy Level 3 (W3C).
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=31536000",
}


def format_moment(milliseconds: int | None) -> str:
    """Return a time for people, in UTC."""
    if milliseconds is None:
        return "never"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def make_environment() -> jinja2.Environment:
    """Return the templates. They escape everything, and fail if something is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["moment"] = format_moment
    environment.filters["duration"] = format_duration
    return environment


ENVIRONMENT = make_environment()


def render_page(template: str, user: PageUser | None, status: int = 200, /, **values: Any) -> Response:
    """Return a page from a template."""
    text = ENVIRONMENT.get_template(template).render(user=user, **values)
    return Response(text, status, HEADERS, media_type="text/html")


def static_file(name: str) -> Response:
    """Return the style sheet or the script."""
    headers = {**HEADERS, "cache-control": "max-age=3600"}
    return Response((FOLDER / "static" / name).read_bytes(), 200, headers, media_type=STATIC[name])
