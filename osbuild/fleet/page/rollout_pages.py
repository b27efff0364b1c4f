"""The pages of the rollouts."""

import re
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from osbuild.fleet import bundles
from osbuild.fleet.lost_files import require_file
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.rollout_routes import (
    RolloutOrder,
    begin_rollout,
    order_rollout,
    preview_rollout,
    view_rollout,
)
from osbuild.fleet.numbers import parse_number
from osbuild.fleet.page import session
from osbuild.fleet.page.forms import read_form
from osbuild.fleet.page.live import follow_changes
from osbuild.fleet.page.render import HEADERS, render_page
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.rollout import plan_text, rows
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionKind

MOST_FAILED = 200  # devices whose reasons are shown
UNNAMED = "unnamed"  # a rollout that is previewed before it has a name
DEFAULTS = {"groups": "5,25,70", "success": "95", "error": "5", "pause": "0"}  # of the form for a new rollout
VERBS = ("start", "pause", "resume", "abort")


async def show_rollouts(_request: Request, service: Service, user: PageUser) -> Response:
    views = service.database.read(lambda c: [view_rollout(c, rollout) for rollout in rows.list_rollouts(c)])
    return render_page("rollouts.html", user, rollouts=views)


async def show_rollout(request: Request, service: Service, user: PageUser) -> Response:
    name = request.path_params["name"]
    now = service.clock()
    rollout = service.database.read(lambda c: rows.find_rollout(c, name))
    view = service.database.read(lambda c: view_rollout(c, rollout))
    failed = service.database.read(lambda c: rows.failed_devices(c, rollout, MOST_FAILED))
    overdue = service.database.read(lambda c: rows.overdue_devices(c, rollout, now, MOST_FAILED))
    offered = service.database.read(bundles.list_bundles)
    return render_page("rollout.html", user, rollout=view, failed=failed, overdue=overdue, bundles=offered)


async def follow_rollout(request: Request, service: Service, user: PageUser) -> Response:
    name = request.path_params["name"]

    async def read() -> object:
        return service.database.read(lambda c: view_rollout(c, rows.find_rollout(c, name)))

    return await follow_changes(request, service, user, read)


async def change_rollout(request: Request, service: Service, user: PageUser) -> Response:
    name, verb = request.path_params["name"], request.path_params["verb"]
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    if verb not in VERBS:
        raise not_found("there is no such order")
    origin = session.origin_of(user, request, service.clock())
    order = RolloutOrder(verb, parse_number(form.get("bundle", "")), form.get("retry") == "yes")
    await order_rollout(service, name, order, origin)
    return RedirectResponse(f"/rollouts/{quote(name)}", 303, HEADERS)


async def show_new_rollout(request: Request, service: Service, user: PageUser) -> Response:
    """Show the form for a new rollout. If the address names a bundle, the form is filled in for it."""
    text = request.query_params.get("bundle", "")
    number = parse_number(text) or 0
    bundle = service.database.read(lambda connection: bundles.find_bundle(connection, number))
    if bundle is None:
        return await render_new_rollout(service, user, {})
    name = re.sub("[^A-Za-z0-9._-]+", "-", f"{bundle.name}-{bundle.version}")[:64].strip("-_.")
    form = {"name": name, "bundle": text, "selection": f"compatible={bundle.compatible}"}
    answer = await render_new_rollout(service, user, form)
    answer.status_code = 200  # even if it is for no device yet, as the page says
    return answer


async def make_rollout(request: Request, service: Service, user: PageUser) -> Response:
    """Show which devices a rollout would be for, or create it."""
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    if form.get("order") != "create":
        return await render_new_rollout(service, user, form)
    origin = session.origin_of(user, request, service.clock())
    try:
        plan = parse_plan(form)
        await begin_rollout(service, plan, origin, start=form.get("start") == "yes")
    except Refused as refusal:
        return await render_new_rollout(service, user, form, refusal)
    return RedirectResponse(f"/rollouts/{quote(plan.name)}", 303, HEADERS)


async def render_new_rollout(
    service: Service, user: PageUser, form: dict[str, str], refusal: Refused | None = None
) -> Response:
    """Return the form for a new rollout: with the devices that it selects, or with the reason of a refusal."""
    preview = None
    if form.get("bundle") and refusal is None:
        filled = {**DEFAULTS, **form, "name": form.get("name") or UNNAMED}
        try:
            plan = parse_plan(filled)
            require_file(service, plan.bundle)
            preview = await preview_rollout(service, plan)
        except Refused as problem:
            refusal = problem
    return render_page(
        "new_rollout.html", user, refusal.status if refusal else 200, form={**DEFAULTS, **form}, preview=preview,
        bundles=service.database.read(bundles.list_bundles), problem=refusal.message if refusal else "",
    )  # fmt: skip


def parse_plan(form: dict[str, str]) -> RolloutPlan:
    """Return the plan in the form for a new rollout, which is not checked yet. Raises `Refused`."""
    success, error, pause, bundle = (
        parse_number(form.get(name, "")) for name in ("success", "error", "pause", "bundle")
    )
    if success is None or error is None or pause is None or bundle is None:
        raise Refused(400, "bad-form", "bundle, success, error and pause are numbers")
    try:
        selection = plan_text.parse_selection(form.get("selection", "").split())
        sizes = plan_text.parse_groups(form.get("groups", ""))
        start = plan_text.parse_time(form["at"]) if form.get("at") else None
        deadline = plan_text.parse_duration(form["deadline"]) if form.get("deadline") else None
        kind = ActionKind(form.get("kind") or ActionKind.forced)
    except ValueError as problem:
        raise Refused(400, "bad-form", str(problem)) from problem
    groups = tuple(
        GroupPlan(size.percent, success, error, pause, size.count, size.selection, deadline) for size in sizes
    )
    maintenance = MaintenanceSchedule(form["windows"], form.get("zone") or None) if form.get("windows") else None
    return RolloutPlan(form.get("name", ""), bundle, selection, groups, kind, start=start, maintenance=maintenance)
