"""The addresses at which devices ask and report (DDI)."""

from collections.abc import Callable

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from osbuild.fleet import actions, bundles
from osbuild.fleet.actions import DeviceReport, UpdateAction
from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.ddi import documents
from osbuild.fleet.ddi.answers import answer_document
from osbuild.fleet.ddi.confirmation import confirmation_routes
from osbuild.fleet.ddi.endpoint import device_links, device_route, find_action
from osbuild.fleet.ddi.messages import parse_attributes, parse_feedback, parse_installed
from osbuild.fleet.ddi.offer import is_window_open, make_offer
from osbuild.fleet.ddi.operator_requests import operator_request_routes
from osbuild.fleet.devices import FleetDevice, change_attributes
from osbuild.fleet.downloads import end_lease
from osbuild.fleet.files import send_file
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.request_body import read_body
from osbuild.fleet.rollout.transitions import advance_rollout
from osbuild.fleet.service import Service
from osbuild.fleet.states import ENDED, ActionState, Execution

MOST_HISTORY = 100
NOT_DESCRIBED = (ActionState.waiting, ActionState.cancelling, ActionState.cancelled)
"""the states of actions whose description is not available at `deploymentBase`; that of those that ended is"""


def device_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of all resources of devices. The most frequent requests are first, as each route is tried."""
    return [
        device_route(service, "", {"GET": poll}),
        device_route(service, "/softwaremodules/{bundle:number}/artifacts/{name}", {"GET": get_artifact}),
        device_route(service, "/deploymentBase/{action:number}", {"GET": get_deployment}),
        device_route(service, "/deploymentBase/{action:number}/feedback", {"POST": post_deployment_feedback}),
        device_route(service, "/cancelAction/{action:number}", {"GET": get_cancellation}),
        device_route(service, "/cancelAction/{action:number}/feedback", {"POST": post_cancellation_feedback}),
        device_route(service, "/installedBase/{action:number}", {"GET": get_installed}),
        device_route(service, "/installedBase", {"PUT": put_installed}),
        *confirmation_routes(service),
        *operator_request_routes(service),
        device_route(service, "/configData", {"PUT": put_attributes}),
        device_route(service, "/softwaremodules/{bundle:number}/artifacts", {"GET": get_artifacts}),
    ]


async def poll(request: Request, service: Service, device: FleetDevice) -> Response:
    offer = await make_offer(service, device)
    return answer_document(request, documents.poll_answer(device, offer, device_links(request)))


async def get_deployment(request: Request, service: Service, device: FleetDevice) -> Response:
    action = find_action(request, service, device)
    if action.state in NOT_DESCRIBED:
        raise not_found(f"the action {action.id} is not one to install: {action.state}")
    opened = is_window_open(service, device, action)
    return answer_document(request, describe_update(request, service, action, window_open=opened))


async def get_installed(request: Request, service: Service, device: FleetDevice) -> Response:
    action = find_action(request, service, device)
    if action.state in NOT_DESCRIBED or action.state not in ENDED:
        raise not_found(f"the action {action.id} has not installed anything: {action.state}")
    return answer_document(request, describe_update(request, service, action))


async def put_installed(request: Request, service: Service, device: FleetDevice) -> Response:
    """Store which published bundle a device has otherwise installed (201 if that is news)."""
    name, version = parse_installed(await read_body(request), request.headers.get("content-type", ""))
    now = service.clock()
    created = await service.database.change(
        lambda connection: actions.record_installed(connection, device, (name, version), now)
    )
    return Response(status_code=201 if created else 200)


async def get_cancellation(request: Request, service: Service, device: FleetDevice) -> Response:
    action = find_action(request, service, device)
    if action.state not in (ActionState.cancelling, ActionState.cancelled):
        raise not_found(f"the action {action.id} is not being cancelled")
    return answer_document(request, documents.cancellation(action))


async def post_deployment_feedback(request: Request, service: Service, device: FleetDevice) -> Response:
    return await store_feedback(request, service, device, actions.report_update)


async def post_cancellation_feedback(request: Request, service: Service, device: FleetDevice) -> Response:
    return await store_feedback(request, service, device, actions.report_cancelling)


async def put_attributes(request: Request, service: Service, device: FleetDevice) -> Response:
    mode, changes = parse_attributes(await read_body(request), request.headers.get("content-type", ""))
    await service.database.change(lambda connection: change_attributes(connection, device, mode, changes))
    return Response(status_code=200)


async def get_artifacts(request: Request, service: Service, device: FleetDevice) -> Response:
    bundle = find_known_bundle(request, service, device)
    return answer_document(request, [documents.artifact(bundle, device_links(request, service.artifact_url))])


async def get_artifact(request: Request, service: Service, device: FleetDevice) -> Response:
    action = find_download(request, service, device)
    bundle = service.database.read(lambda connection: bundles.read_bundle_row(connection, action.bundle))
    name = request.path_params["name"]
    if name == f"{bundle.filename}.MD5SUM":
        return PlainTextResponse(f"{bundle.md5}  {bundle.filename}")
    if name != bundle.filename:
        raise not_found(f"the bundle has no file {name}")
    service.downloads.note_download(action.id)
    answer = await send_file(request, service.files.path(bundle.sha256), bundle.sha1)
    ranges = any(header == b"range" for header, _ in request.scope["headers"])
    if request.method == "GET" and answer.status_code == 200 and not ranges:
        now = service.clock()
        await service.database.change(lambda connection: actions.record_download(connection, action, now))
    return answer


def describe_update(
    request: Request, service: Service, action: UpdateAction, *, window_open: bool | None = None
) -> documents.Document:
    """Return the description of an update, with as many older messages as the client asks for, at most 100."""
    bundle = service.database.read(lambda connection: bundles.read_bundle_row(connection, action.bundle))
    document = documents.deployment(
        action, bundle, device_links(request, service.artifact_url), window_open=window_open
    )
    try:
        wanted = int(request.query_params.get("actionHistory", "0"))
    except ValueError as error:
        raise Refused(400, "bad-parameter", "actionHistory is a number") from error
    most = min(MOST_HISTORY if wanted < 0 else wanted, MOST_HISTORY)
    if not most:
        return document
    messages = service.database.read(lambda connection: actions.read_history(connection, action.id, most))
    return documents.with_history(document, action, messages)


def find_known_bundle(request: Request, service: Service, device: FleetDevice) -> PublishedBundle:
    """Return the bundle that the address names, if the device is told to install it, or has. Raises `Refused`."""
    number = request.path_params["bundle"]

    def find(connection: Connection) -> PublishedBundle | None:
        offered = {action.bundle for action in actions.active_actions(connection, device.id) if is_downloadable(action)}
        if device.installed_action is not None:
            offered.add(actions.read_action(connection, device.id, device.installed_action).bundle)
        return bundles.read_bundle_row(connection, number) if number in offered else None

    bundle = service.database.read(find)
    if bundle is None:
        raise not_found(f"the device is not told to install the software module {number}")
    return bundle


def find_download(request: Request, service: Service, device: FleetDevice) -> UpdateAction:
    """Return the action to install the bundle that the address names. Raises `Refused` if there is none."""
    number = request.path_params["bundle"]
    active = service.database.read(lambda connection: actions.active_actions(connection, device.id))
    for action in active:
        if is_downloadable(action) and action.bundle == number:
            return action
    raise not_found(f"the device is not told to install the software module {number}")


def is_downloadable(action: UpdateAction) -> bool:
    """Whether the device of an active action may download the bundle."""
    return action.state is ActionState.running


async def store_feedback(
    request: Request, service: Service, device: FleetDevice,
    store: Callable[[Connection, int, int, DeviceReport, int], ActionState],
) -> Response:  # fmt: skip
    """Store a report with `store`, and what it means for a rollout. The answer is sent when it is on the disk."""
    report = parse_feedback(await read_body(request), request.headers.get("content-type", ""))
    number, now = request.path_params["action"], service.clock()

    def store_and_advance(connection: Connection) -> None:
        state = store(connection, device.id, number, report, now)
        if report.execution is Execution.downloaded:
            end_lease(connection, number, now)
        rollout = actions.read_action(connection, device.id, number).rollout
        if rollout is not None and state in ENDED:
            advance_rollout(connection, rollout, now)

    await service.database.change(store_and_advance)
    return Response(status_code=200)
