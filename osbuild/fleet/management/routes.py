"""The addresses of the management API."""

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import BaseRoute

from osbuild.fleet import actions, bundles
from osbuild.fleet.audit import AuditEntry, Origin, read_audit, record_event
from osbuild.fleet.bundle_removal import end_bundle
from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.decommission import end_device
from osbuild.fleet.devices import FleetDevice, change_tags, find_device, list_devices
from osbuild.fleet.lost_files import is_lost, require_file
from osbuild.fleet.maintenance import check_schedule
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.endpoint import make_route
from osbuild.fleet.management.known_device import known_device, registered_device, used_device
from osbuild.fleet.management.messages import (
    ActionView,
    BundleView,
    DeviceView,
    EmptyAnswer,
    NewAction,
    NewTags,
)
from osbuild.fleet.management.request_routes import request_routes
from osbuild.fleet.management.rollout_routes import rollout_routes
from osbuild.fleet.management.token_routes import token_routes
from osbuild.fleet.numbers import parse_number
from osbuild.fleet.publishing import limit_chunks, publish_upload, receive_upload, record_refusal
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.request_body import decode_json, read_body
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionState
from osbuild.fleet.suitability import check_suitable, count_unsaid

MOST_ROWS = 1000


def management_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the management API."""

    return [
        make_route(service, "/devices", "GET", Role.viewer, get_devices),
        make_route(service, "/devices/{name}", "GET", Role.viewer, get_device),
        make_route(service, "/devices/{name}/tags", "POST", Role.operator, post_tags),
        make_route(service, "/devices/{name}/actions", "POST", Role.operator, post_action),
        make_route(service, "/devices/{name}/actions/{action:number}", "DELETE", Role.operator, delete_action),
        make_route(service, "/bundles", "GET", Role.viewer, get_bundles),
        make_route(service, "/bundles/{filename}", "PUT", Role.operator, put_bundle),
        make_route(service, "/bundles/{bundle:number}", "DELETE", Role.operator, delete_bundle),
        make_route(service, "/devices/{name}", "DELETE", Role.admin, delete_device),
        make_route(service, "/devices", "DELETE", Role.admin, delete_named_device),
        make_route(service, "/audit", "GET", Role.viewer, get_audit),
        *request_routes(service),
        *rollout_routes(service),
        *token_routes(service),
    ]


async def get_devices(request: Request, service: Service, _origin: Origin) -> list[DeviceView]:
    after = request.query_params.get("after", "")
    devices = service.database.read(lambda connection: list_devices(connection, after, MOST_ROWS))
    return [view_device(service, device, most=1) for device in devices]


async def get_device(request: Request, service: Service, _origin: Origin) -> DeviceView:
    return view_device(service, registered_device(request, service), most=100)


async def post_tags(request: Request, service: Service, origin: Origin) -> DeviceView:
    """Set and remove tags of a device."""
    device = known_device(request, service)
    order = decode_json(await read_body(request), NewTags)

    def change(connection: Connection) -> None:
        current = find_device(connection, device.name) or device
        after = change_tags(connection, current, order.tags)
        if after != current.tags:
            record_event(connection, origin, "tags changed", device.name, before=dict(current.tags), after=dict(after))

    await service.database.change(change)
    return view_device(service, known_device(request, service), most=1)


async def post_action(request: Request, service: Service, origin: Origin) -> ActionView:
    device = known_device(request, service)
    order = decode_json(await read_body(request), NewAction)
    require_file(service, order.bundle)

    def assign(connection: Connection) -> int:
        bundle = bundles.find_bundle(connection, order.bundle)
        if bundle is None:
            raise not_found(f"there is no bundle {order.bundle}")
        check_suitable([device], bundle)
        schedule = None if order.maintenance is None else order.maintenance.schedule()
        if schedule is not None:
            check_schedule(schedule, origin.time)
        confirm = order.confirm and not device.auto_confirm
        assignment = actions.Assignment(order.bundle, order.kind, confirm=confirm, maintenance=schedule)
        number = actions.assign_bundle(connection, device.id, assignment, origin.time)
        details = {"action": number, "bundle": order.bundle, "kind": order.kind, "confirm": confirm or None}
        windows = None if schedule is None else schedule.windows
        record_event(connection, origin, "action created", device.name, **details, windows=windows)
        return number

    number = await service.database.change(assign)
    view = view_action(service, service.database.read(lambda c: actions.read_action(c, device.id, number)))
    view.unsaid = bool(count_unsaid([device]))
    return view


async def delete_action(request: Request, service: Service, origin: Origin) -> ActionView:
    device, number = known_device(request, service), request.path_params["action"]

    def cancel(connection: Connection) -> None:
        action = actions.read_action(connection, device.id, number)
        if not action.active:
            raise Refused(409, "action-ended", f"the action {number} has ended: {action.state}")
        if action.state is ActionState.cancelling:  # somebody has done that before
            return
        actions.begin_cancelling(connection, action, origin.time)
        record_event(connection, origin, "action cancelled", device.name, action=number, before=action.state)

    await service.database.change(cancel)
    return view_action(service, service.database.read(lambda c: actions.read_action(c, device.id, number)))


async def get_bundles(_request: Request, service: Service, _origin: Origin) -> list[BundleView]:
    return [view_bundle(service, bundle) for bundle in service.database.read(bundles.list_bundles)]


async def put_bundle(request: Request, service: Service, origin: Origin) -> BundleView:
    """Store, check and offer the bundle in the body."""
    filename = request.path_params["filename"]
    try:
        bundles.check_filename(filename)
        chunks = limit_chunks(service, request.stream(), request.headers.get("content-length"))
        with receive_upload(service) as file:
            async for chunk in chunks:
                await run_in_threadpool(file.contents.write, chunk)
            return view_bundle(service, await publish_upload(service, file, filename, origin))
    except Refused as refusal:
        await record_refusal(service, filename, refusal, origin)
        raise


async def delete_bundle(request: Request, service: Service, origin: Origin) -> EmptyAnswer:
    """Offer a bundle no more, and delete its file."""
    await end_bundle(service, request.path_params["bundle"], origin)
    return EmptyAnswer()


async def delete_device(request: Request, service: Service, origin: Origin) -> EmptyAnswer:
    """Decommission a device: it is not accepted any more, and what it was told to do is cancelled."""
    device = known_device(request, service)
    await service.database.change(lambda connection: end_device(connection, device, origin))
    return EmptyAnswer()


async def delete_named_device(request: Request, service: Service, origin: Origin) -> EmptyAnswer:
    """Decommission the device `name`, whose name may be one that no address can have, and no new device gets."""
    device = used_device(service, request.query_params.get("name", ""))
    await service.database.change(lambda connection: end_device(connection, device, origin))
    return EmptyAnswer()


async def get_audit(request: Request, service: Service, _origin: Origin) -> list[AuditEntry]:
    text = request.query_params.get("before")
    before = None if text is None else parse_number(text)
    if text is not None and before is None:
        raise Refused(400, "bad-parameter", "`before` is the id of an entry")
    return service.database.read(lambda connection: read_audit(connection, before, MOST_ROWS))


def view_device(service: Service, device: FleetDevice, most: int) -> DeviceView:
    """Return a device with its newest actions, at most `most`."""
    newest = service.database.read(lambda connection: actions.newest_actions(connection, device.id, most))
    views = [view_action(service, action) for action in newest]
    last_seen, address = service.contacts.get(device.id, (device.last_seen, device.address))
    return DeviceView(
        device.name, device.created, last_seen, address, device.attributes, device.tags, views, device.decommissioned
    )


def view_action(service: Service, action: actions.UpdateAction) -> ActionView:
    """Return an action with the messages that were reported about it."""
    bundle = service.database.read(lambda connection: bundles.read_bundle_row(connection, action.bundle))
    messages = service.database.read(lambda connection: actions.read_history(connection, action.id, 100))
    return ActionView(
        action.id, bundle.title, action.kind, action.state, action.active, action.created, action.ended, messages,
        action.maintenance,
    )  # fmt: skip


def view_bundle(service: Service, bundle: PublishedBundle) -> BundleView:
    """Return a bundle without the name of its file."""
    return BundleView(
        bundle.id, bundle.name, bundle.version, bundle.compatible, bundle.size, bundle.sha256, bundle.created,
        is_lost(service.files, bundle),
    )  # fmt: skip
