"""The addresses of rollouts in the management API."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.routing import BaseRoute

from osbuild.fleet import bundles
from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.devices import FleetDevice, list_devices
from osbuild.fleet.lost_files import require_file
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.endpoint import make_route
from osbuild.fleet.management.messages import (
    GroupView,
    NewRollout,
    Preview,
    ResumeOrder,
    RolloutView,
)
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.request_body import decode_json, read_body
from osbuild.fleet.rollout import rows, transitions
from osbuild.fleet.rollout.grouping import group_devices
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan, check_plan
from osbuild.fleet.rollout.rows import Rollout
from osbuild.fleet.rollout.selection import select_devices
from osbuild.fleet.service import Service
from osbuild.fleet.states import GroupState
from osbuild.fleet.suitability import check_any, check_suitable, count_unsaid

MOST_PREVIEWED = 100
EVENTS = {
    "start": "rollout started", "pause": "rollout paused", "resume": "rollout resumed", "abort": "rollout aborted",
}  # fmt: skip
PORTION = 500  # devices that a preview reads at once


@dataclass(frozen=True)
class RolloutOrder:
    """An order to start, pause, resume or abort a rollout. `bundle` and `retry` are for `resume`."""

    verb: str
    bundle: int | None = None
    retry: bool = False


def rollout_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of rollouts."""
    return [
        make_route(service, "/rollouts", "GET", Role.viewer, get_rollouts),
        make_route(service, "/rollouts", "POST", Role.operator, post_rollout),
        make_route(service, "/rollouts/preview", "POST", Role.viewer, post_preview),
        make_route(service, "/rollouts/{name}", "GET", Role.viewer, get_rollout),
        make_route(service, "/rollouts/{name}/start", "POST", Role.operator, post_start),
        make_route(service, "/rollouts/{name}/pause", "POST", Role.operator, post_pause),
        make_route(service, "/rollouts/{name}/resume", "POST", Role.operator, post_resume),
        make_route(service, "/rollouts/{name}/abort", "POST", Role.operator, post_abort),
    ]


async def get_rollouts(_request: Request, service: Service, _origin: Origin) -> list[RolloutView]:
    return service.database.read(lambda c: [view_rollout(c, rollout) for rollout in rows.list_rollouts(c)])


async def get_rollout(request: Request, service: Service, _origin: Origin) -> RolloutView:
    name = request.path_params["name"]
    return service.database.read(lambda c: view_rollout(c, rows.find_rollout(c, name)))


async def post_preview(request: Request, service: Service, _origin: Origin) -> Preview:
    plan = decode_json(await read_body(request), NewRollout).plan()
    require_file(service, plan.bundle)
    return await preview_rollout(service, plan)


async def preview_rollout(service: Service, plan: RolloutPlan) -> Preview:
    """Return which devices a rollout would be for. Raises `Refused`.

    The devices are read in portions and grouped in a thread, so that other requests are answered meanwhile.
    """
    check_plan(plan, service.clock())
    bundle = service.database.read(lambda connection: known_bundle(connection, plan.bundle))
    selected: list[FleetDevice] = []
    after = ""
    while portion := service.database.read(partial(list_devices, after=after, most=PORTION)):
        selected += select_devices(portion, plan.selection)
        after = portion[-1].name
        await asyncio.sleep(0)
    check_any(selected, plan.selection)
    return await asyncio.to_thread(preview_groups, selected, plan.groups, bundle)


def preview_groups(selected: Sequence[FleetDevice], groups: Sequence[GroupPlan], bundle: PublishedBundle) -> Preview:
    """Return which of the selected devices would be in which group. Raises `Refused`."""
    check_suitable(selected, bundle)
    parts = group_devices(selected, groups)
    names = {device.id: device.name for device in selected}
    return Preview(
        [len(part) for part in parts],
        [device.name for device in selected[:MOST_PREVIEWED]],
        [[names[device] for device in part[:MOST_PREVIEWED]] for part in parts],
        count_unsaid(selected),
    )


async def post_rollout(request: Request, service: Service, origin: Origin) -> RolloutView:
    order = decode_json(await read_body(request), NewRollout)
    return await begin_rollout(service, order.plan(), origin, start=order.now)


async def begin_rollout(service: Service, plan: RolloutPlan, origin: Origin, *, start: bool) -> RolloutView:
    """Create a rollout of a bundle whose file is there, and start it if that is wanted. Raises `Refused`."""
    require_file(service, plan.bundle)
    return await service.database.change(lambda connection: create_rollout(connection, plan, origin, start=start))


def create_rollout(connection: Connection, plan: RolloutPlan, origin: Origin, *, start: bool) -> RolloutView:
    """Create a rollout, start it if that is wanted, and record that. Raises `Refused`."""
    check_plan(plan, origin.time)
    if start and plan.start is not None:
        raise Refused(400, "bad-rollout", "a rollout starts at once (`now`) or at a time (`start`), not both")
    selected = choose_devices(connection, plan)
    parts = group_devices(selected, plan.groups)
    rollout = rows.insert_rollout(connection, plan, parts, origin.time)
    record_event(connection, origin, "rollout created", plan.name, **describe_plan(plan, parts))
    if start:
        transitions.start_rollout(connection, rollout, origin.time)
        record_event(connection, origin, "rollout started", plan.name)
    view = view_rollout(connection, rows.read_rollout(connection, rollout.id))
    view.unsaid = count_unsaid(selected)
    return view


def describe_plan(plan: RolloutPlan, parts: Sequence[Sequence[int]]) -> dict[str, object]:
    """Return what the audit log says about a new rollout: what people have chosen, and the sizes of the groups."""
    return {
        "bundle": plan.bundle,
        "selection": dict(plan.selection),
        "groups": [len(part) for part in parts],
        "success": sorted({group.success for group in plan.groups}),
        "error": sorted({group.error for group in plan.groups}),
        "kind": plan.kind,
        "weight": plan.weight,
        "confirm": plan.confirm or None,
        "start": plan.start,
        "windows": None if plan.maintenance is None else plan.maintenance.windows,
    }


async def post_start(request: Request, service: Service, origin: Origin) -> RolloutView:
    return await change_rollout(request, service, RolloutOrder("start"), origin)


async def post_pause(request: Request, service: Service, origin: Origin) -> RolloutView:
    return await change_rollout(request, service, RolloutOrder("pause"), origin)


async def post_abort(request: Request, service: Service, origin: Origin) -> RolloutView:
    return await change_rollout(request, service, RolloutOrder("abort"), origin)


async def post_resume(request: Request, service: Service, origin: Origin) -> RolloutView:
    body = await read_body(request)
    message = decode_json(body, ResumeOrder) if body else ResumeOrder()
    return await change_rollout(request, service, RolloutOrder("resume", message.bundle, message.retry), origin)


async def change_rollout(request: Request, service: Service, order: RolloutOrder, origin: Origin) -> RolloutView:
    """Change the state of the rollout that the address names. Raises `Refused`."""
    return await order_rollout(service, request.path_params["name"], order, origin)


async def order_rollout(service: Service, name: str, order: RolloutOrder, origin: Origin) -> RolloutView:
    """Change the state of a rollout. It does not start or go on if the file of its bundle is missing."""
    if order.verb in ("start", "resume"):
        bundle = order.bundle or service.database.read(lambda connection: rows.find_rollout(connection, name)).bundle
        require_file(service, bundle)
    return await service.database.change(lambda connection: set_rollout_state(connection, name, order, origin))


def set_rollout_state(connection: Connection, name: str, order: RolloutOrder, origin: Origin) -> RolloutView:
    """Carry out an order, and record that. Raises `Refused`."""
    before = rows.find_rollout(connection, name)
    if order.verb == "start":
        transitions.start_rollout(connection, before, origin.time)
    elif order.verb == "pause":
        transitions.pause_rollout(connection, before, f"paused by {origin.name}")
    elif order.verb == "abort":
        transitions.abort_rollout(connection, before, f"aborted by {origin.name}", origin.time)
    else:
        if order.bundle is not None:
            check_replacement(connection, before, order.bundle)
        transitions.resume_rollout(connection, before, origin.time, bundle=order.bundle, retry=order.retry)
    after = rows.read_rollout(connection, before.id)
    values = {"before": before.state, "after": after.state, "bundle": after.bundle}
    record_event(connection, origin, EVENTS[order.verb], name, **values)
    return view_rollout(connection, after)


def check_replacement(connection: Connection, rollout: Rollout, bundle: int) -> None:
    """Raise `Refused` if a bundle is not for the devices of a rollout."""
    old = bundles.read_bundle_row(connection, rollout.bundle)
    if known_bundle(connection, bundle).compatible != old.compatible:
        raise Refused(409, "incompatible", f"the rollout is for devices that are {old.compatible}")


def choose_devices(connection: Connection, plan: RolloutPlan) -> list[FleetDevice]:
    """Return the devices of a plan, by name. Raises `Refused` if there is none, or one that the bundle is not for."""
    bundle = known_bundle(connection, plan.bundle)
    selected = list(select_devices(list_devices(connection), plan.selection))
    check_any(selected, plan.selection)
    check_suitable(selected, bundle)
    return selected


def known_bundle(connection: Connection, number: int) -> PublishedBundle:
    """Return the bundle with the id `number`. Raises `Refused`."""
    bundle = bundles.find_bundle(connection, number)
    if bundle is None:
        raise not_found(f"there is no bundle {number}")
    return bundle


def view_rollout(connection: Connection, rollout: Rollout) -> RolloutView:
    """Return a rollout with what its groups have come to."""
    bundle = bundles.read_bundle_row(connection, rollout.bundle)
    groups = []
    for group in rows.read_groups(connection, rollout.id):
        counts = group.counts
        pending = 0 if group.state is GroupState.waiting else counts.pending
        groups.append(
            GroupView(group.state, counts.total, counts.succeeded, counts.failed, counts.cancelled, group.success,
                      group.error, group.pause, group.deadline, pending, counts.overdue, counts.forgiven)
        )  # fmt: skip
    return RolloutView(
        rollout.name, bundle.title, rollout.kind, rollout.state, rollout.reason, rollout.created, rollout.start,
        rollout.ended, rollout.selection, groups, rollout.maintenance,
    )  # fmt: skip
