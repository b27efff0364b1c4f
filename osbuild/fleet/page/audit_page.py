"""The page of the audit log."""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from osbuild.fleet.audit import search_audit
from osbuild.fleet.numbers import parse_number
from osbuild.fleet.page.render import render_page
from osbuild.fleet.page.session import PageUser
from osbuild.fleet.service import Service

MOST_ENTRIES = 100  # of one page
FILTERS = ("who", "event", "subject")
LONGEST_FILTER = 256  # characters


async def show_audit(request: Request, service: Service, user: PageUser) -> Response:
    """Show entries, the newest first, or those before another one."""
    before = parse_number(request.query_params.get("before", ""))
    values = {name: request.query_params.get(name, "").strip()[:LONGEST_FILTER] for name in FILTERS}
    query = {name: value for name, value in values.items() if value}
    entries = await search_audit(service.database, before, MOST_ENTRIES + 1, query)
    shown = entries[:MOST_ENTRIES]
    older = urlencode({**query, "before": shown[-1].id}) if len(entries) > MOST_ENTRIES else ""
    return render_page("audit.html", user, entries=shown, query=query, older=older, newest=before is None)
