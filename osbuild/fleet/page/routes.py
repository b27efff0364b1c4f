"""The addresses of the web page."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from osbuild.fleet import actions, bundles
from osbuild.fleet.audit import read_audit
from osbuild.fleet.ddi.endpoint import read_body
from osbuild.fleet.devices import every_device, find_device
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.management.access import Role
from osbuild.fleet.management.rollout_routes import (
    RolloutOrder,
    create_rollout,
    preview_rollout,
    set_rollout_state,
    view_rollout,
)
from osbuild.fleet.management.routes import view_action
from osbuild.fleet.page import session
from osbuild.fleet.page.overview import summarize
from osbuild.fleet.page.render import HEADERS, STATIC, render_page, static_file
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.rollout import plan_text, rows
from osbuild.fleet.rollout.plan import GroupPlan, RolloutPlan
from osbuild.fleet.rollout.selection import check_selection, select_devices
from osbuild.fleet.service import Service
from osbuild.fleet.states import ActionKind

MOST_ROWS = 200
LIVE_EVERY = 2.0  # seconds
VERBS = ("start", "pause", "resume", "abort")
Handler = Callable[[Request, Service, PageUser], Awaitable[Response]]


def page_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of all pages."""

    def page(path: str, handler: Handler, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            user = session.find_user(request, service)
            if user is None:
                return RedirectResponse("/signin", 303, HEADERS)
            try:
                return await handler(request, service, user)
            except Refused as refusal:
                return render_page("problem.html", user, refusal.status, message=refusal.message)

        return Route(path, endpoint, methods=[method])

    async def show_sign_in(_request: Request) -> Response:
        return render_page("signin.html", None, message="")

    async def sign_in(request: Request) -> Response:
        try:
            token = (await read_form(request)).get("token", "").strip()
            now = service.clock()
            secret = await service.database.change(lambda connection: session.sign_in(connection, token, now))
        except Refused as refusal:
            return render_page("signin.html", None, refusal.status, message=refusal.message)
        answer = RedirectResponse("/", 303, HEADERS)
        answer.set_cookie(session.COOKIE, secret, secure=True, httponly=True, samesite="strict")
        return answer

    async def static(request: Request) -> Response:
        return static_file(request.url.path.rpartition("/")[2])

    return [
        Route("/signin", show_sign_in, methods=["GET"]),
        Route("/signin", sign_in, methods=["POST"]),
        *(Route(f"/static/{name}", static) for name in STATIC),
        page("/", show_overview),
        page("/signout", sign_out, "POST"),
        page("/devices", show_devices),
        page("/devices/{name}", show_device),
        page("/rollouts", show_rollouts),
        page("/rollouts/new", show_new_rollout),
        page("/rollouts/new", make_rollout, "POST"),
        page("/rollouts/{name}", show_rollout),
        page("/rollouts/{name}/events", follow_rollout),
        page("/rollouts/{name}/{verb}", change_rollout, "POST"),
        page("/audit", show_audit),
    ]


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form (application/x-www-form-urlencoded). Raises `Refused`."""
    try:
        return dict(parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError as error:
        raise Refused(400, "bad-form", f"the form can't be read: {error}") from error


async def show_overview(_request: Request, service: Service, user: PageUser) -> Response:
    devices = service.database.read(every_device)
    now = service.clock()
    running = service.database.read(lambda c: [view_rollout(c, rollout, now) for rollout in rows.list_rollouts(c)[:5]])
    overview = summarize(devices, service.contacts, now)
    return render_page("overview.html", user, overview=overview, rollouts=running)


async def sign_out(request: Request, service: Service, user: PageUser) -> Response:
    session.check_form(user, await read_form(request), Role.viewer)
    await service.database.change(lambda connection: session.sign_out(connection, user.secret))
    answer = RedirectResponse("/signin", 303, HEADERS)
    answer.delete_cookie(session.COOKIE, secure=True, httponly=True, samesite="strict")
    return answer


async def show_devices(request: Request, service: Service, user: PageUser) -> Response:
    name, version = request.query_params.get("name", ""), request.query_params.get("version", "")
    after = request.query_params.get("after", "")
    selection = {key: value for key, value in (("name", name), ("version", version)) if value}
    check_selection(selection)
    selected = list(select_devices(service.database.read(every_device), selection))
    shown = [device for device in selected if device.name > after][: MOST_ROWS + 1]
    more = shown[MOST_ROWS - 1].name if len(shown) > MOST_ROWS else ""
    return render_page(
        "devices.html", user, devices=shown[:MOST_ROWS], count=len(selected), more=more, name=name, version=version,
        contacts=service.contacts,
    )  # fmt: skip


async def show_device(request: Request, service: Service, user: PageUser) -> Response:
    name = request.path_params["name"]
    device = service.database.read(lambda connection: find_device(connection, name))
    if device is None:
        raise not_found(f"there is no device {name}")
    newest = service.database.read(lambda connection: actions.newest_actions(connection, device.id, 50))
    views = [view_action(service, action) for action in newest]
    seen, address = service.contacts.get(device.id, (device.last_seen, device.address))
    return render_page("device.html", user, device=device, actions=views, seen=seen, address=address)


async def show_rollouts(_request: Request, service: Service, user: PageUser) -> Response:
    now = service.clock()
    views = service.database.read(lambda c: [view_rollout(c, rollout, now) for rollout in rows.list_rollouts(c)])
    return render_page("rollouts.html", user, rollouts=views)


async def show_rollout(request: Request, service: Service, user: PageUser) -> Response:
    name = request.path_params["name"]
    now = service.clock()
    rollout = service.database.read(lambda c: rows.find_rollout(c, name))
    view = service.database.read(lambda c: view_rollout(c, rollout, now))
    failed = service.database.read(lambda c: rows.failed_devices(c, rollout, MOST_ROWS))
    overdue = service.database.read(lambda c: rows.overdue_devices(c, rollout, now, MOST_ROWS))
    offered = service.database.read(bundles.list_bundles)
    return render_page("rollout.html", user, rollout=view, failed=failed, overdue=overdue, bundles=offered)


async def follow_rollout(request: Request, service: Service, _user: PageUser) -> Response:
    """Tell the page when the rollout has changed (server-sent events, WHATWG HTML, section 9.2)."""
    name = request.path_params["name"]

    def read() -> object:
        return service.database.read(lambda c: view_rollout(c, rows.find_rollout(c, name), service.clock()))

    before = read()

    async def events() -> AsyncIterator[bytes]:
        last = before
        while not await request.is_disconnected():
            await asyncio.sleep(LIVE_EVERY)
            current = read()
            yield b": still here\n\n" if current == last else b"data: changed\n\n"
            last = current

    return StreamingResponse(events(), 200, HEADERS, media_type="text/event-stream")


async def change_rollout(request: Request, service: Service, user: PageUser) -> Response:
    name, verb = request.path_params["name"], request.path_params["verb"]
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    if verb not in VERBS:
        raise not_found("there is no such order")
    origin = session.origin_of(user, request, service.clock())
    chosen = form.get("bundle", "")
    bundle = int(chosen) if chosen.isdecimal() and len(chosen) < 16 else None
    order = RolloutOrder(verb, bundle, form.get("retry") == "yes")
    await service.database.change(lambda c: set_rollout_state(c, name, order, origin))
    return RedirectResponse(f"/rollouts/{quote(name)}", 303, HEADERS)


async def show_new_rollout(_request: Request, service: Service, user: PageUser) -> Response:
    return render_page(
        "new_rollout.html", user, bundles=service.database.read(bundles.list_bundles), form={}, preview=None
    )


async def make_rollout(request: Request, service: Service, user: PageUser) -> Response:
    """Show which devices a rollout would be for, or create it."""
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    plan = parse_plan(form)
    if form.get("order") != "create":
        now = service.clock()
        preview = service.database.read(lambda c: preview_rollout(c, plan, now))
        offered = service.database.read(bundles.list_bundles)
        return render_page("new_rollout.html", user, bundles=offered, form=form, preview=preview)
    origin = session.origin_of(user, request, service.clock())
    await service.database.change(lambda c: create_rollout(c, plan, origin, start=form.get("start") == "yes"))
    return RedirectResponse(f"/rollouts/{quote(plan.name)}", 303, HEADERS)


def parse_plan(form: dict[str, str]) -> RolloutPlan:
    """Return the plan in the form for a new rollout, which is not checked yet. Raises `Refused`."""
    try:
        success, error, pause, bundle = (int(form[name]) for name in ("success", "error", "pause", "bundle"))
    except (KeyError, ValueError) as problem:
        raise Refused(400, "bad-form", "bundle, success, error and pause are numbers") from problem
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


async def show_audit(request: Request, service: Service, user: PageUser) -> Response:
    text = request.query_params.get("before", "")
    before = int(text) if text.isdecimal() and len(text) < 16 else None
    entries = service.database.read(lambda connection: read_audit(connection, before, MOST_ROWS))
    return render_page("audit.html", user, entries=entries, more=len(entries) == MOST_ROWS)
