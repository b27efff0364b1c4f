"""Forms of the web page."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from osbuild.fleet.ddi.endpoint import read_body
from osbuild.fleet.refusal import Refused


def parse_number(text: str) -> int | None:
    """Return the id of a row that a form or an address names; None if it is none."""
    return int(text) if text.isdecimal() and len(text) < 16 else None


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form (application/x-www-form-urlencoded). Raises `Refused`."""
    try:
        return dict(parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError as error:
        raise Refused(400, "bad-form", f"the form can't be read: {error}") from error
