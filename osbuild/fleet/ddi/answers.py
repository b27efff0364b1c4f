"""Answers to devices: JSON or CBOR, with an ETag."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import cbor2
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from osbuild.fleet.ddi.messages import CBOR
from osbuild.fleet.refusal import Refused

HAL, JSON = "application/hal+json", "application/json"
OFFERED = (HAL, JSON, CBOR)


def choose_type(accept: str) -> str:
    """Return the first media type of an Accept header that is offered (RFC 9110, section 12.5.1). Raises `Refused`."""
    if not accept.strip():
        return HAL
    for part in accept.split(","):
        essence, *parameters = (word.strip().lower() for word in part.split(";"))
        if "q=0" in parameters or "q=0.0" in parameters:
            continue
        if essence in ("*/*", "application/*"):
            return HAL
        if essence in OFFERED:
            return essence
    raise Refused(406, "not-acceptable", f"accept one of {', '.join(OFFERED)}")


def answer_document(request: Request, document: Mapping[str, Any] | Sequence[Any]) -> Response:
    """Return `document` in the form that the client accepts; 304 if the client has it already. Raises `Refused`."""
    media_type = choose_type(request.headers.get("accept", ""))
    body = cbor2.dumps(document) if media_type == CBOR else msgspec.json.encode(document)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type=media_type, headers={"etag": tag})


def matches(header: str, tag: str) -> bool:
    """Whether `tag` is among the tags of an If-None-Match header (RFC 9110, section 13.1.2)."""
    tags = [word.strip().removeprefix("W/") for word in header.split(",")]
    return tag in tags or "*" in tags


def answer_refusal(refusal: Refused) -> Response:
    """Return the answer to a refused request, in hawkBit's form. One that is not authenticated has no body."""
    if refusal.status == 401:
        return Response(status_code=401, headers={"www-authenticate": 'TargetToken realm="edge-osbuild"'})
    document = {"exceptionClass": "Refused", "errorCode": refusal.code, "message": refusal.message, "info": {}}
    return Response(msgspec.json.encode(document), refusal.status, refusal.headers, media_type=JSON)
