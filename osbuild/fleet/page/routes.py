"""The addresses of the web page."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from osbuild.fleet.management.access import Role
from osbuild.fleet.page import rollout_pages, session
from osbuild.fleet.page.audit_page import show_audit
from osbuild.fleet.page.bundle_pages import delete_bundle, show_bundles, upload_bundle
from osbuild.fleet.page.fleet_pages import FleetPages
from osbuild.fleet.page.forms import parse_form, read_form
from osbuild.fleet.page.overview import OverviewReader
from osbuild.fleet.page.render import HEADERS, STATIC, render_page, static_file
from osbuild.fleet.page.requests import download_diagnostics, send_request
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import read_anonymous_body
from osbuild.fleet.service import Service

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
                answer = render_page("problem.html", user, refusal.status, message=refusal.message)
                answer.headers.update(refusal.headers)
                return answer

        return Route(path, endpoint, methods=[method])

    async def show_sign_in(_request: Request) -> Response:
        return render_page("signin.html", None, message="")

    async def sign_in(request: Request) -> Response:
        try:
            session.check_site(request)
            token = parse_form(await read_anonymous_body(request)).get("token", "").strip()
            now = service.clock()
            secret = await service.database.change(lambda connection: session.sign_in(connection, token, now))
        except Refused as refusal:
            refused = render_page("signin.html", None, refusal.status, message=refusal.message)
            refused.headers.update(refusal.headers)
            return refused
        answer = RedirectResponse("/", 303, HEADERS)
        answer.set_cookie(session.COOKIE, secret, secure=True, httponly=True, samesite="strict")
        return answer

    async def static(request: Request) -> Response:
        return static_file(request.url.path.rpartition("/")[2])

    fleet = FleetPages(OverviewReader(service))
    return [
        Route("/signin", show_sign_in, methods=["GET"]),
        Route("/signin", sign_in, methods=["POST"]),
        *(Route(f"/static/{name}", static) for name in STATIC),
        page("/", fleet.show_overview),
        page("/events", fleet.follow_overview),
        page("/signout", sign_out, "POST"),
        page("/devices", fleet.show_devices),
        page("/devices/{name}", fleet.show_device),
        page("/devices/{name}/events", fleet.follow_device),
        page("/devices/{name}/requests", send_request, "POST"),
        page("/requests/{number:number}/diagnostics", download_diagnostics),
        page("/bundles", show_bundles),
        page("/bundles", upload_bundle, "POST"),
        page("/bundles/{bundle:number}/delete", delete_bundle, "POST"),
        page("/rollouts", rollout_pages.show_rollouts),
        page("/rollouts/new", rollout_pages.show_new_rollout),
        page("/rollouts/new", rollout_pages.make_rollout, "POST"),
        page("/rollouts/{name}", rollout_pages.show_rollout),
        page("/rollouts/{name}/events", rollout_pages.follow_rollout),
        page("/rollouts/{name}/{verb}", rollout_pages.change_rollout, "POST"),
        page("/audit", show_audit),
    ]


async def sign_out(request: Request, service: Service, user: PageUser) -> Response:
    session.check_form(user, await read_form(request), Role.viewer)
    await service.database.change(lambda connection: session.sign_out(connection, user.secret))
    answer = RedirectResponse("/signin", 303, HEADERS)
    answer.delete_cookie(session.COOKIE, secure=True, httponly=True, samesite="strict")
    return answer
