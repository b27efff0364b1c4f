"""The OpenAPI 3.1 description of the API, made from its routes and messages."""

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.routing import BaseRoute

from osbuild.fleet.ddi.document_types import RefusalDocument
from osbuild.fleet.ddi.endpoint import BASE as DEVICES
from osbuild.fleet.ddi.messages import TYPES
from osbuild.fleet.description import JSON, TEXT, ApiAccess, ApiRoute
from osbuild.fleet.management.messages import ApiProblem
from osbuild.fleet.operations.operation_table import Operation, find_operation, operation_id
from osbuild.host.version import read_version

Document = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
NAME = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
SECURITY: Mapping[ApiAccess, list[Document]] = {
    ApiAccess.everybody: [],
    ApiAccess.device: [{"certificate": []}, {"deviceToken": []}],
    ApiAccess.viewer: [{"accessToken": []}],
    ApiAccess.operator: [{"accessToken": []}],
    ApiAccess.admin: [{"accessToken": []}],
}
SCHEMES = {
    "accessToken": {"type": "http", "scheme": "bearer", "description": "An access token (`edge-osbuild fleet token`)."},
    "deviceToken": {
        "type": "apiKey", "in": "header", "name": "Authorization",
        "description": "`TargetToken TOKEN` of a device, or `GatewayToken TOKEN` of a gateway.",
    },
    "certificate": {"type": "mutualTLS", "description": "The certificate of a device (`/enrol/v1`)."},
}  # fmt: skip


def describe_api(routes: Iterable[BaseRoute]) -> Document:
    """Return the description of all API routes among `routes`."""
    api = [route for route in routes if isinstance(route, ApiRoute)]
    operations = [(route, method, handler) for route in api for method, handler in route.handlers.items()]
    used = (kind for _, _, handler in operations for kind in message_types(handler))
    kinds = list(dict.fromkeys([*used, ApiProblem, RefusalDocument]))
    schemas, components = msgspec.json.schema_components(kinds, schema_hook=describe_other_type, ref_template=REFERENCE)
    by_type = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Document] = {}
    for route, method, handler in operations:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[method.lower()] = describe_route(route, method, handler, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-osbuild update server",
            "version": read_version().number,
            "description": "Devices use DDI (Direct Device Integration of Eclipse hawkBit), people the management API.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def describe_route(
    route: ApiRoute, method: str, handler: Callable[..., Any], schemas: Mapping[object, Document]
) -> Document:
    """Return the description of one method of a route."""
    operation = find_operation(handler)
    path_parameters = [
        {"name": name, "in": "path", "required": True, "schema": NUMBER if kind == "number" else NAME}
        for name, kind in PARAMETER.findall(route.path)
    ]
    query = [
        {"name": name, "in": "query", "schema": content_schema(kind, schemas)} for name, kind in operation.query.items()
    ]
    document: Document = {
        "operationId": operation_id(handler),
        "summary": f"{handler.__name__.replace('_', ' ')} (for: {route.access})",
        "parameters": [*path_parameters, *query],
        "responses": describe_answers(route, operation, handler, schemas),
        "security": SECURITY[route.access],
    }
    if handler.__doc__:
        document["description"] = " ".join(handler.__doc__.split())
    if operation.body is not None:
        media_types = TYPES if is_for_devices(route) else (JSON,)
        content = describe_content(operation.body, media_types, schemas)
        document["requestBody"] = {"required": not is_optional(operation.body), "content": content}
    return document


def describe_answers(
    route: ApiRoute, operation: Operation, handler: Callable[..., Any], schemas: Mapping[object, Document]
) -> Document:
    """Return the description of all answers to one method of a route."""
    media_types = TYPES if is_for_devices(route) else (JSON,)
    answers: Document = {}
    for status, kind in answer_types(handler).items():
        answers[str(status)] = {"description": HTTPStatus(status).phrase}
        if kind is not None:
            answers[str(status)]["content"] = describe_content(kind, media_types, schemas)
    for status in sorted({*common_refusals(route, operation), *operation.refusals}):
        answer: Document = {"description": HTTPStatus(status).phrase}
        kind = refusal_type(route, operation, status)
        if kind is not None:
            answer["content"] = describe_content(kind, (JSON,), schemas)
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            answer["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "seconds"}}
        answers[str(status)] = answer
    return answers


def refusal_type(route: ApiRoute, operation: Operation, status: int) -> object:
    """Return the type of the body of a refusal; None if it has no body."""
    if status in (HTTPStatus.NOT_MODIFIED, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return None
    if status == HTTPStatus.SERVICE_UNAVAILABLE and status in operation.refusals:  # for load balancers
        return TEXT
    if route.access in (ApiAccess.everybody, ApiAccess.device):
        return None if status == HTTPStatus.UNAUTHORIZED else RefusalDocument
    return ApiProblem


def common_refusals(route: ApiRoute, operation: Operation) -> Iterator[int]:
    """Yield the statuses of refusals that follow from how a route is used."""
    yield from (400, 503)  # 503: the database fails, or too many bodies arrive
    if route.access is not ApiAccess.everybody:
        yield 401
    if route.access in (ApiAccess.viewer, ApiAccess.operator, ApiAccess.admin):
        yield 403
    if PARAMETER.search(route.path):
        yield 404
    if operation.body is not None:
        yield from (408, 413)
        if is_for_devices(route):
            yield 415
    elif is_for_devices(route) and any(kind is not None for kind in operation.answers.values()):
        yield from (304, 406)


def message_types(handler: Callable[..., Any]) -> Iterator[object]:
    """Yield the types of the messages that a handler receives and sends."""
    operation = find_operation(handler)
    for kind in (operation.body, *operation.query.values(), *answer_types(handler).values()):
        if kind is not None and not isinstance(kind, str | tuple):
            yield kind


def answer_types(handler: Callable[..., Any]) -> Mapping[int, object]:
    """Return the types of a handler's successful answers by status."""
    answers = find_operation(handler).answers
    return answers or {200: typing.get_type_hints(handler)["return"]}


def describe_content(kind: object, media_types: Iterable[str], schemas: Mapping[object, Document]) -> Document:
    """Return the description of a body: one or several media types, or a message in each of `media_types`."""
    if isinstance(kind, str):
        return {kind: {}}
    if isinstance(kind, tuple):
        return {str(media_type): {} for media_type in kind}
    return {media_type: {"schema": content_schema(kind, schemas)} for media_type in media_types}


def content_schema(kind: object, schemas: Mapping[object, Document]) -> Document:
    """Return the schema of a type."""
    return schemas[kind]


def describe_other_type(kind: type) -> Document:
    """Return the schema of a type that msgspec does not know: `object` is any value."""
    if kind is object:
        return {"description": "any value"}  # msgspec takes an empty schema for none
    raise NotImplementedError(f"no schema for {kind}")


def is_optional(body: object) -> bool:
    """Whether a body may be left out."""
    return type(None) in typing.get_args(body)


def is_for_devices(route: ApiRoute) -> bool:
    """Whether a route is one of DDI."""
    return route.path.startswith(DEVICES)
