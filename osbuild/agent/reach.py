"""Whether the update server can be reached: any HTTP answer says that it can."""

import argparse
import sys
import urllib.error
import urllib.request

from osbuild.agent.system import System

CONFIG = "/etc/edge-osbuild/agent.json"


def reach(url: str, timeout: float) -> str | None:
    """None if `url` (http or https) answers within `timeout` seconds, else what went wrong."""
    if not url.startswith(("http://", "https://")):
        return f"{url} is not an http or https address"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return None
    except urllib.error.HTTPError:
        return None
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        return f"{url}: {getattr(error, 'reason', None) or error}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="how long to wait (default: 10)")


def main(options: argparse.Namespace) -> int:
    config = System().json(CONFIG)
    url = config.get("server")
    if not url:
        print("no update server is set")
        return 0 if config.get("offline", True) else 1
    problem = reach(url, options.timeout)
    if problem is None:
        print(f"{url} answers")
        return 0
    print(problem, file=sys.stderr)
    return 1
