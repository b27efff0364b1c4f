"""Requests of operators to a device: the document that the update server signs, and the device verifies.

The signed bytes are JSON with sorted keys and no spaces. The signature is CMS (RFC 5652) with the document inside.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record, record_to_json

FORMAT = "edge-osbuild request 1"
SIGNER = "edge-osbuild requests"
"""the common name of the certificate that signs requests"""
LONGEST_VALIDITY = 24 * 3600 * 1000  # milliseconds; a device refuses a request that is valid longer
LARGEST_REQUEST = 64 * 1024  # bytes of a signed request
LARGEST_ARCHIVE = 4 * 2**20  # bytes of the diagnostics
ID = re.compile(r"[0-9a-f]{32}")


class RequestKind(StrEnum):
    """What an operator may request of a device."""

    diagnostics = "diagnostics"
    reboot = "reboot"
    rotate = "rotate"  # make a new key, and get a new certificate for it
    rollback = "rollback"
    wipe = "wipe"


DEFAULT_KINDS = (RequestKind.diagnostics, RequestKind.reboot, RequestKind.rotate)
"""what a profile allows by default: nothing that loses data"""


class RequestResult(StrEnum):
    """How a request has ended on the device."""

    succeeded = "succeeded"
    failed = "failed"
    rejected = "rejected"


@dataclass(frozen=True, kw_only=True)
class OperatorRequest:
    """A request to the device named `device`. Times are in milliseconds since 1970; `id` is random."""

    id: str
    device: str
    kind: RequestKind
    not_before: int
    expires: int
    format: str

    def encode(self) -> bytes:
        """Return the bytes to sign."""
        return json.dumps(record_to_json(self), sort_keys=True, separators=(",", ":")).encode()


def parse_operator_request(data: bytes) -> OperatorRequest:
    """Return the request in a document whose signature is verified. Raises `ValueError`."""
    document: Any = parse_json(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"its format is not `{FORMAT}`")
    request = parse_record(OperatorRequest, document)
    if not ID.fullmatch(request.id):
        raise ValueError("it has no valid id")
    return request
