"""The page of the bundles, where people upload new ones."""

import re

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from osbuild.fleet import bundles
from osbuild.fleet.bundle_removal import end_bundle
from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.lost_files import is_lost
from osbuild.fleet.management.access import Role
from osbuild.fleet.page import session
from osbuild.fleet.page.forms import read_form
from osbuild.fleet.page.render import HEADERS, render_page
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.page.upload_form import UploadForm
from osbuild.fleet.publishing import LARGEST_BUNDLE, limit_chunks, publish_upload, receive_upload, record_refusal
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,250}")
PLAIN_NAME = "bundle.raucb"  # if the file's own name cannot be part of an address


async def show_bundles(_request: Request, service: Service, user: PageUser) -> Response:
    return render_bundles(service, user)


async def upload_bundle(request: Request, service: Service, user: PageUser) -> Response:
    """Publish the bundle in a form, and lead to the start of a rollout."""
    try:
        bundle = await publish_form(request, service, user)
    except Refused as refusal:
        return render_bundles(service, user, refusal)
    return RedirectResponse(f"/rollouts/new?bundle={bundle.id}", 303, HEADERS)


async def delete_bundle(request: Request, service: Service, user: PageUser) -> Response:
    """Delete a bundle that nothing needs."""
    form = await read_form(request)
    session.check_form(user, form, Role.operator)
    try:
        await end_bundle(service, request.path_params["bundle"], session.origin_of(user, request, service.clock()))
    except Refused as refusal:
        return render_bundles(service, user, refusal)
    return RedirectResponse("/bundles", 303, HEADERS)


async def publish_form(request: Request, service: Service, user: PageUser) -> PublishedBundle:
    """Publish the bundle in a form. The fields are before the file, so that its sender is known first."""
    form = UploadForm(request.headers.get("content-type", ""))
    try:
        return await receive_form(request, service, user, form)
    except Refused as refusal:
        if form.filename is not None and user.may(Role.operator.name):
            origin = session.origin_of(user, request, service.clock())
            await record_refusal(service, form.filename, refusal, origin)
        raise


async def receive_form(request: Request, service: Service, user: PageUser, form: UploadForm) -> PublishedBundle:
    """Publish the bundle in the body of a request, which `form` reads. Raises `Refused`."""
    with receive_upload(service) as file:
        allowed = False
        async for chunk in limit_chunks(service, request.stream(), request.headers.get("content-length")):
            pieces = form.feed(chunk)
            if form.filename is not None and not allowed:
                session.check_form(user, form.fields, Role.operator)
                allowed = True
            if pieces:
                await run_in_threadpool(file.contents.writelines, pieces)
        session.check_form(user, form.fields, Role.operator)
        if not form.complete or not form.filename:
            raise Refused(400, "no-file", "no bundle has arrived: choose a .raucb file of `edge-osbuild bundle`")
        name = form.filename if FILENAME.fullmatch(form.filename) else PLAIN_NAME
        return await publish_upload(service, file, name, session.origin_of(user, request, service.clock()))


def render_bundles(service: Service, user: PageUser, refusal: Refused | None = None) -> Response:
    """Return the page with all bundles, and with the reason if an upload was refused."""
    offered = service.database.read(bundles.list_bundles)
    lost = {bundle.id for bundle in offered if is_lost(service.files, bundle)}
    return render_page(
        "bundles.html", user, refusal.status if refusal else 200, bundles=offered, lost=lost,
        largest=LARGEST_BUNDLE, problem=refusal.message if refusal else "",
    )  # fmt: skip
