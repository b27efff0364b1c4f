"""The methods of the API's routes: their bodies, answers, parameters and refusals, for the description of the API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from osbuild.fleet.ddi import document_types as types
from osbuild.fleet.ddi.messages import ActionFeedback, ConfirmationFeedback, DeviceAttributes, InstalledVersion
from osbuild.fleet.ddi.operator_requests import RequestAnswer
from osbuild.fleet.description import BINARY, JSON, PEM, RANGES, TEXT
from osbuild.fleet.enrolment import EnrolmentRequest
from osbuild.fleet.management.messages import (
    NewAccessToken,
    NewAction,
    NewEnrolmentToken,
    NewRequest,
    NewRollout,
    NewTags,
    ResumeOrder,
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a route. `body` and the values of `answers`, by status, are types of messages, or media types.

    `query` are types of the parameters after the path. `refusals` are statuses of refusals that not all routes have.
    """

    body: object = None
    answers: Mapping[int, object] = field(default_factory=dict)
    query: Mapping[str, object] = field(default_factory=dict)
    refusals: tuple[int, ...] = ()


# By the names of their handlers, with the package if two have the same name. Without a row, a handler has no body and
# no parameters, and answers what it returns.
OPERATIONS = {
    "poll": Operation(answers={200: types.PollDocument}),
    "get_deployment": Operation(answers={200: types.DeploymentDocument}, query={"actionHistory": int}),
    "get_installed": Operation(answers={200: types.DeploymentDocument}, query={"actionHistory": int}),
    "put_installed": Operation(body=InstalledVersion, answers={200: None, 201: None}, refusals=(429,)),
    "get_cancellation": Operation(answers={200: types.CancellationDocument}),
    "post_deployment_feedback": Operation(body=ActionFeedback, answers={200: None}, refusals=(410, 429)),
    "post_cancellation_feedback": Operation(body=ActionFeedback, answers={200: None}, refusals=(405, 410, 429)),
    "put_attributes": Operation(body=DeviceAttributes, answers={200: None}, refusals=(429,)),
    "get_artifacts": Operation(answers={200: list[types.ArtifactDocument]}),
    "get_artifact": Operation(answers={200: (BINARY, TEXT), 206: (BINARY, RANGES)}, refusals=(412, 416, 503)),
    "get_confirmations": Operation(answers={200: types.ConfirmationsDocument}),
    "get_confirmation": Operation(answers={200: types.ConfirmationDocument}),
    "post_confirmation": Operation(body=ConfirmationFeedback, answers={200: None}, refusals=(410, 429)),
    "activate": Operation(answers={200: None}, refusals=(409,)),
    "deactivate": Operation(answers={200: None}),
    "get_devices": Operation(query={"after": str}),
    "post_action": Operation(body=NewAction, refusals=(409,)),
    "ddi.get_request": Operation(answers={200: types.RequestDocument}, refusals=(410,)),
    "put_diagnostics": Operation(body=BINARY, answers={200: None}, refusals=(410,)),
    "post_result": Operation(body=RequestAnswer, answers={200: None}, refusals=(410,)),
    "get_diagnostics": Operation(answers={200: "application/gzip"}),
    "post_request": Operation(body=NewRequest, refusals=(409, 501)),
    "post_tags": Operation(body=NewTags, refusals=(409,)),
    "delete_action": Operation(refusals=(409,)),
    "put_bundle": Operation(body=BINARY, refusals=(409, 422, 507)),
    "delete_bundle": Operation(refusals=(405, 409)),  # 405: not a number, so it is the name of a file to upload
    "delete_named_device": Operation(query={"name": str}, refusals=(404,)),
    "post_target_token": Operation(refusals=(409,)),
    "get_audit": Operation(query={"before": int}),
    "post_preview": Operation(body=NewRollout, refusals=(404, 409)),
    "post_rollout": Operation(body=NewRollout, refusals=(404, 409)),
    "post_start": Operation(refusals=(409,)),
    "post_pause": Operation(refusals=(409,)),
    "post_abort": Operation(refusals=(409,)),
    "post_resume": Operation(body=ResumeOrder | None, refusals=(409,)),
    "post_access_token": Operation(body=NewAccessToken, refusals=(409,)),
    "post_enrolment_token": Operation(body=NewEnrolmentToken),
    "enrol": Operation(body=EnrolmentRequest, answers={200: PEM}, refusals=(403, 429)),
    "renew": Operation(body=EnrolmentRequest, answers={200: PEM}, refusals=(401, 429)),
    "is_alive": Operation(answers={200: TEXT}, refusals=(503,)),
    "is_ready": Operation(answers={200: TEXT}, refusals=(503,)),
    "get_metrics": Operation(answers={200: TEXT}),
    "get_description": Operation(answers={200: JSON}),
}


def find_operation(handler: Callable[..., Any]) -> Operation:
    """Return the description of a handler."""
    return OPERATIONS.get(operation_id(handler)) or OPERATIONS.get(handler.__name__, Operation())


def operation_id(handler: Callable[..., Any]) -> str:
    """Return the id of a handler: its package in the server, and its name."""
    package = handler.__module__.split(".")[2]
    return f"{package}.{handler.__name__}"
