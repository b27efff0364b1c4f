"""Updates that a device is asked about before they begin (DDI, `confirmationBase`)."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from osbuild.fleet import actions, bundles
from osbuild.fleet.ddi import documents
from osbuild.fleet.ddi.answers import answer_document
from osbuild.fleet.ddi.endpoint import device_links, device_route, find_action
from osbuild.fleet.ddi.messages import parse_confirmation
from osbuild.fleet.ddi.offer import is_window_open
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.request_body import read_body
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionState


def confirmation_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of `confirmationBase`."""
    return [
        device_route(service, "/confirmationBase", {"GET": get_confirmations}),
        device_route(service, "/confirmationBase/activateAutoConfirm", {"POST": activate}),
        device_route(service, "/confirmationBase/deactivateAutoConfirm", {"POST": deactivate}),
        device_route(service, "/confirmationBase/{action:number}", {"GET": get_confirmation}),
        device_route(service, "/confirmationBase/{action:number}/feedback", {"POST": post_confirmation}),
    ]


async def get_confirmations(request: Request, service: Service, device: FleetDevice) -> Response:
    active = service.database.read(lambda connection: actions.active_actions(connection, device.id))
    waiting = next((action for action in active if action.state is ActionState.waiting), None)
    return answer_document(request, documents.confirmations(device, waiting, device_links(request)))


async def get_confirmation(request: Request, service: Service, device: FleetDevice) -> Response:
    action = find_action(request, service, device)
    if action.state is not ActionState.waiting:
        raise not_found(f"the action {action.id} does not wait for a confirmation: {action.state}")
    bundle = service.database.read(lambda connection: bundles.read_bundle_row(connection, action.bundle))
    opened = is_window_open(service, device, action)
    document = documents.deployment(action, bundle, device_links(request, service.artifact_url), window_open=opened)
    return answer_document(request, {"id": document["id"], "confirmation": document["deployment"]})


async def post_confirmation(request: Request, service: Service, device: FleetDevice) -> Response:
    report = parse_confirmation(await read_body(request), request.headers.get("content-type", ""))
    number, now = request.path_params["action"], service.clock()
    await service.database.change(lambda c: actions.confirm_action(c, device.id, number, report, now))
    return Response(status_code=200)


async def activate(_request: Request, service: Service, device: FleetDevice) -> Response:
    return await set_auto_confirm(service, device, active=True)


async def deactivate(_request: Request, service: Service, device: FleetDevice) -> Response:
    return await set_auto_confirm(service, device, active=False)


async def set_auto_confirm(service: Service, device: FleetDevice, *, active: bool) -> Response:
    """Confirm the updates of a device automatically, or no longer. Raises `Refused` if it is so already."""
    if device.auto_confirm and active:
        raise Refused(409, "auto-confirm-active", "updates are confirmed automatically already")
    now = service.clock()
    await service.database.change(lambda c: actions.set_auto_confirm(c, device.id, active, now))
    return Response(status_code=200)
