"""Who sends a request, for the log: noted when the request is authenticated."""

from collections.abc import MutableMapping
from typing import Any

from starlette.requests import Request

KEY = "edge_osbuild_requester"


def note_requester(request: Request, kind: str, name: str) -> None:
    """Note that `name`, such as a device or an access token, has proved that the request comes from it."""
    request.scope[KEY] = f"{kind} {name}"


def noted_requester(scope: MutableMapping[str, Any]) -> str:
    """Return who was noted; nothing if nobody was."""
    return str(scope.get(KEY, ""))
