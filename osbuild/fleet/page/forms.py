"""Forms of the web page."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import read_body


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form (application/x-www-form-urlencoded). Raises `Refused`."""
    return parse_form(await read_body(request))


def parse_form(body: bytes) -> dict[str, str]:
    """Return the fields in the body of a form. Raises `Refused`."""
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError as error:
        raise Refused(400, "bad-form", f"the form can't be read: {error}") from error
