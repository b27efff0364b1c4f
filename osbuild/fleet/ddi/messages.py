"""What devices send (DDI), parsed and checked. Unknown fields are ignored."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, TypeVar

import cbor2
import msgspec

from osbuild.fleet.actions import DeviceReport
from osbuild.fleet.devices import AttributeMode
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json
from osbuild.fleet.states import Execution, Finished

T = TypeVar("T")
CBOR = "application/cbor"
Code = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]  # what the database stores
Timestamp = Annotated[int, msgspec.Meta(ge=-(2**62), lt=2**62)]
TYPES = ("application/json", "application/hal+json", CBOR)


class ReportedResult(msgspec.Struct):
    """How an action has ended."""

    finished: Finished


class ReportedStatus(msgspec.Struct):
    """The state of an action. `details` are messages."""

    execution: Execution
    result: ReportedResult
    code: Code | None = None
    details: list[str] | str | None = None


class ActionFeedback(msgspec.Struct):
    """What a device reports about an action."""

    status: ReportedStatus
    timestamp: Timestamp | None = None


class Confirmation(StrEnum):
    """What a device answers to an update that it is asked about (DDI, `confirmationBase`)."""

    confirmed = "confirmed"
    denied = "denied"


class ConfirmationFeedback(msgspec.Struct):
    """Whether a device confirms an update. `details` are messages."""

    confirmation: Confirmation
    code: Code | None = None
    details: list[str] | str | None = None


class InstalledVersion(msgspec.Struct):
    """The bundle that a device has installed otherwise."""

    name: str
    version: str


class DeviceAttributes(msgspec.Struct):
    """What a device says about itself: at least one attribute, as in hawkBit."""

    data: Annotated[dict[str, str | None], msgspec.Meta(min_length=1)]
    mode: AttributeMode = AttributeMode.merge


def parse_feedback(body: bytes, media_type: str) -> DeviceReport:
    """Return the report in the body of a request for `feedback`. Raises `Refused`."""
    feedback = _decode(body, media_type, ActionFeedback)
    status = feedback.status
    details = [status.details] if isinstance(status.details, str) else status.details or []
    return DeviceReport(status.execution, status.result.finished, status.code, tuple(details), feedback.timestamp)


def parse_confirmation(body: bytes, media_type: str) -> DeviceReport:
    """Return the answer in the body of a request for `confirmationBase`. Raises `Refused`."""
    answer = _decode(body, media_type, ConfirmationFeedback)
    details = [answer.details] if isinstance(answer.details, str) else answer.details or []
    execution = Execution.proceeding if answer.confirmation is Confirmation.confirmed else Execution.rejected
    return DeviceReport(execution, Finished.none, answer.code, (f"{answer.confirmation} by the device", *details))


def parse_installed(body: bytes, media_type: str) -> tuple[str, str]:
    """Return the name and version in the body of a request for `installedBase`. Raises `Refused`."""
    installed = _decode(body, media_type, InstalledVersion)
    return installed.name, installed.version


def parse_attributes(body: bytes, media_type: str) -> tuple[AttributeMode, Mapping[str, str | None]]:
    """Return the mode and the attributes in the body of a request for `configData`. Raises `Refused`."""
    parsed = _decode(body, media_type, DeviceAttributes)
    return parsed.mode, parsed.data


def _decode(body: bytes, media_type: str, kind: type[T]) -> T:
    essence = media_type.partition(";")[0].strip().lower()
    if essence not in TYPES:
        raise Refused(415, "media-type", f"send {TYPES[0]} or {CBOR}")
    if essence != CBOR:
        return decode_json(body, kind)
    try:
        return msgspec.convert(cbor2.loads(body), kind)
    except (msgspec.ValidationError, cbor2.CBORDecodeError, RecursionError, ValueError) as error:
        raise Refused(400, "bad-body", f"the body can't be read: {error}") from error
