"""`edge-agent reach`: checks whether the update server answers. Every HTTP status counts as an answer."""

import argparse
import ssl
import sys
import time
import urllib.error
import urllib.request

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.identity import device_context
from osbuild.agent.fleet.settings import load_settings
from osbuild.agent.http import ServerAddress, open_request
from osbuild.agent.system import System
from osbuild.shared.http_deadline import INVALID_ANSWERS
from osbuild.shared.node_settings import AGENT_FILE, AgentSeed, unknown_settings
from osbuild.shared.records import parse_record


def check_server(url: str, timeout: float, context: ssl.SSLContext | None = None) -> str | None:
    """None if `url` (http or https) answers within `timeout` seconds, otherwise the error.

    Without `context`, https uses the authorities of the system.
    """
    address = ServerAddress(url)
    if not address.remote:
        return f"{address.shown} is not an http or https address"
    if address.problem:
        return f"{address.shown}: {address.problem}"
    try:
        request = urllib.request.Request(address.url, method="HEAD")
        if address.authorization:
            request.add_unredirected_header("Authorization", address.authorization)
        with open_request(request, timeout, time.monotonic() + timeout, redirects=False, context=context):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, *INVALID_ANSWERS) as error:
        return f"{address.shown}: {address.hide(str(getattr(error, 'reason', None) or error))}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="how long to wait (default: 10)")


def main(options: argparse.Namespace) -> int:
    system = System()
    content = system.json(AGENT_FILE)
    for problem in unknown_settings(content, AgentSeed):
        print(f"edge-agent: {AGENT_FILE}: {problem}", file=sys.stderr)
    try:
        settings = parse_record(AgentSeed, {"node": "", "server": None, "offline": True, **content})
    except ValueError as error:
        raise Problem(
            str(error), where=AGENT_FILE, hint="make the seed again from the profile, and apply it"
        ) from error
    url = settings.server or ""
    if not url:
        print("no update server is configured")
        return 0 if settings.offline else 1
    fleet = load_settings(system)
    if fleet is None:
        failure = check_server(url, options.timeout)
    else:
        failure = check_server(fleet.base, options.timeout, device_context(system, fleet))
    if failure is None:
        print(f"{ServerAddress(url).shown} answers")
        return 0
    print(failure, file=sys.stderr)
    return 1
