"""The pages of the fleet, of its devices, and of one device."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from osbuild.fleet.management.known_device import registered_device
from osbuild.fleet.management.messages import RolloutView
from osbuild.fleet.management.rollout_routes import view_rollout
from osbuild.fleet.page import device_history
from osbuild.fleet.page.conditions import DeviceCondition, judge_device
from osbuild.fleet.page.device_search import DeviceSearch, find_devices, newest_updates
from osbuild.fleet.page.live import follow_changes
from osbuild.fleet.page.overview import FleetOverview, OverviewReader
from osbuild.fleet.page.render import render_page
from osbuild.fleet.page.requests import offered_kinds, shown_requests
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.page.version_chart import draw_versions
from osbuild.fleet.page.version_history import VersionMoment, read_versions
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout import rows
from osbuild.fleet.rollout.selection import check_selection
from osbuild.fleet.service import Service
from osbuild.fleet.states import ROLLOUT_ENDED, ActionState

MOST_DEVICES = 100  # of one page
MOST_ROLLOUTS = 5  # on the first page


@dataclass
class FleetPages:
    """Answers for the pages of the fleet and of its devices."""

    overview: OverviewReader

    async def show_overview(self, _request: Request, service: Service, user: PageUser) -> Response:
        overview, rollouts = await self._read_overview(service)
        now = service.clock()
        moments = list(service.database.read(lambda connection: read_versions(connection, now)))
        if overview.devices:
            moments.append(VersionMoment(now, overview.running))
        chart = draw_versions(moments, [share.version for share in overview.versions])
        return render_page("overview.html", user, overview=overview, rollouts=rollouts, chart=chart)

    async def follow_overview(self, request: Request, service: Service, user: PageUser) -> Response:
        return await follow_changes(request, service, user, lambda: self._read_overview(service))

    async def show_devices(self, request: Request, service: Service, user: PageUser) -> Response:
        query = {key: value.strip() for key, value in request.query_params.items() if value.strip()}
        search = parse_search(query)
        found = await find_devices(service, search, query.pop("after", ""), MOST_DEVICES)
        updates = service.database.read(lambda c: newest_updates(c, [device.id for device in found.devices]))
        more = urlencode({**query, "after": found.devices[-1].name}) if found.more else ""
        return render_page(
            "devices.html", user, found=found, updates=updates, query=query, more=more,
            conditions=list(DeviceCondition),
        )  # fmt: skip

    async def show_device(self, request: Request, service: Service, user: PageUser) -> Response:
        device = registered_device(request, service)
        shown = service.database.read(lambda connection: device_history.read_actions(connection, device.id))
        expires = service.database.read(lambda connection: device_history.find_certificate_end(connection, device.id))
        seen, address = service.contacts.get(device.id, (device.last_seen, device.address))
        failed = bool(shown) and shown[0].state is ActionState.failed
        condition = judge_device(device.attributes, seen, service.clock(), failed=failed)
        return render_page(
            "device.html", user, device=device, actions=shown, seen=seen, address=address, condition=condition,
            expires=expires, failure=device_history.explain_failure(shown), used=used_space(device.attributes),
            requests=shown_requests(service, device), kinds=offered_kinds(user),
        )  # fmt: skip

    async def follow_device(self, request: Request, service: Service, user: PageUser) -> Response:
        async def read() -> object:
            device = registered_device(request, service)
            seen = service.contacts.get(device.id, (device.last_seen, ""))[0]
            actions = service.database.read(lambda connection: device_history.read_actions(connection, device.id))
            return device.attributes, seen, actions, shown_requests(service, device)

        return await follow_changes(request, service, user, read)

    async def _read_overview(self, service: Service) -> tuple[FleetOverview, list[RolloutView]]:
        return await self.overview.read(), newest_rollouts(service)


def newest_rollouts(service: Service) -> list[RolloutView]:
    """Return the rollouts that have not ended, and the newest of the others, at most `MOST_ROLLOUTS`."""
    ordered = sorted(service.database.read(rows.list_rollouts), key=lambda rollout: rollout.state in ROLLOUT_ENDED)
    shown = ordered[:MOST_ROLLOUTS]
    return service.database.read(lambda connection: [view_rollout(connection, rollout) for rollout in shown])


def parse_search(query: Mapping[str, str]) -> DeviceSearch:
    """Return what a request for devices searches for. Raises `Refused`."""
    selection = {key: query[key] for key in ("name", "version") if key in query}
    for part in query.get("attributes", "").split():
        key, equals, pattern = part.partition("=")
        if not equals or not key or not pattern:
            raise Refused(400, "bad-selection", f"this finds nothing: {part}; write KEY=PATTERN, such as board=rpi*")
        selection[key] = pattern
    check_selection(selection)
    named = query.get("condition", "")
    if named and named not in set(DeviceCondition):
        raise Refused(400, "bad-condition", f"no device is ever {named}: choose one of the list")
    return DeviceSearch(selection, DeviceCondition(named) if named else None)


def used_space(attributes: Mapping[str, str]) -> tuple[int, int] | None:
    """Return how much of its data partition a device uses, and its size, in MiB; None if it does not say."""
    size, free = attributes.get("var_size", ""), attributes.get("var_free", "")
    if not size.isdecimal() or not free.isdecimal() or not 0 < int(size) < 2**53 or int(free) > int(size):
        return None
    return int(size) - int(free), int(size)
