"""`edge-agent reach`: checks whether the update server answers. Every HTTP status counts as an answer."""

import argparse
import sys
import time
import urllib.error
import urllib.request

from osbuild.agent.errors import Problem
from osbuild.agent.http import ServerAddress, open_request
from osbuild.agent.system import System
from osbuild.shared.http_deadline import INVALID_ANSWERS
from osbuild.shared.node_settings import AGENT_FILE, AgentSeed, unknown_settings
from osbuild.shared.records import parse_record


def check_server(url: str, timeout: float) -> str | None:
    """None if `url` (http or https) answers within `timeout` seconds, otherwise the error."""
    address = ServerAddress(url)
    if not address.remote:
        return f"{address.shown} is not an http or https address"
    if address.problem:
        return f"{address.shown}: {address.problem}"
    try:
        request = urllib.request.Request(address.url, method="HEAD")
        if address.authorization:
            request.add_unredirected_header("Authorization", address.authorization)
        with open_request(request, timeout, time.monotonic() + timeout, redirects=False):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, *INVALID_ANSWERS) as error:
        return f"{address.shown}: {address.hide(str(getattr(error, 'reason', None) or error))}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="how long to wait (default: 10)")


def main(options: argparse.Namespace) -> int:
    content = System().json(AGENT_FILE)
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
    failure = check_server(url, options.timeout)
    if failure is None:
        print(f"{ServerAddress(url).shown} answers")
        return 0
    print(failure, file=sys.stderr)
    return 1
