"""The requests of operators that this device has seen, on the data partition. Only root reads and writes the file.

A request is recorded before it is carried out, and is kept until it has expired, so that none is carried out twice.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.shared.files import write_file
from osbuild.shared.operator_requests import RequestKind
from osbuild.shared.records import parse_record, record_to_json

FILE = "/var/lib/edge-osbuild/requests.json"
TYPES = {"since": int, "forgotten": int, "requests": list}


class RequestStage(StrEnum):
    """How far a request is. The last three are how it has ended."""

    begun = "begun"
    rebooting = "rebooting"  # the next boot knows how it has ended
    granted = "granted"  # the unprivileged part may do it
    succeeded = "succeeded"
    failed = "failed"
    rejected = "rejected"


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """A request to this device. `digest` is the SHA-256 of its signed form, `boot` and `slot` are those before it."""

    id: str
    digest: str
    kind: RequestKind
    expires: int
    stage: RequestStage
    boot: str
    slot: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestRecord:
    """All requests that have not expired, and the last one. Times are in milliseconds since 1970.

    Requests from before `since`, when the record was created, are not known here: they are not accepted. `forgotten` is
    the latest time at which a request that was removed from the record has expired.
    """

    since: int
    forgotten: int = 0
    requests: tuple[SeenRequest, ...] = ()

    @property
    def last(self) -> SeenRequest | None:
        """The newest request; None if there is none."""
        return self.requests[-1] if self.requests else None

    def find_request(self, number: str) -> SeenRequest | None:
        """Return the request with an id; None if it was not seen."""
        return next((request for request in self.requests if request.id == number), None)

    def present_time(self, clock: int) -> int:
        """Return the time by which a request has expired: a clock that was set back does not revive one."""
        return max(clock, self.forgotten)

    def add_request(self, request: SeenRequest, clock: int) -> "RequestRecord":
        """Return the record with a request, and without those that have expired."""
        now = self.present_time(clock)
        expired = [seen.expires for seen in self.requests if seen.expires <= now]
        kept = tuple(seen for seen in self.requests if seen.expires > now)
        return replace(self, forgotten=max([self.forgotten, *expired]), requests=(*kept, request))

    def replace_request(self, request: SeenRequest) -> "RequestRecord":
        """Return the record with a new version of a request."""
        requests = tuple(request if seen.id == request.id else seen for seen in self.requests)
        return replace(self, requests=requests)


def load_requests(system: System) -> RequestRecord | None:
    """Return the record; None if it is missing or damaged."""
    row = state_files.read_object(system, FILE, TYPES, ("since",), links=False)
    if not row:
        return None
    try:
        return parse_record(RequestRecord, row)
    except ValueError as error:
        state_files.report_damage(system.path(FILE), str(error))
        return None


def save_requests(system: System, record: RequestRecord) -> None:
    """Store the record. It survives a power cut. Raises `OSError`."""
    write_file(system.path(FILE), json.dumps(record_to_json(record)).encode() + b"\n", 0o600)
