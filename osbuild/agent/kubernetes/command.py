"""`edge-agent kubernetes …`."""

import argparse
import subprocess
import sys
from pathlib import Path

from osbuild.agent.kubernetes.settings import Problem


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    commands.add_parser("prepare", help="make what Kubernetes' programs read (run at every boot)")
    commands.add_parser("renew", help="the same on a running node: starts Kubernetes again if certificates changed")
    joining = commands.add_parser("join", help="find the cluster of an agent by its token")
    joining.add_argument("--patience", type=float, default=60, metavar="SECONDS", help="how long to ask the server")
    commands.add_parser("wait", help="return when this node's API server is ready")
    commands.add_parser("health", help="exit status 0 if this node is Ready, else say why not")


def main(options: argparse.Namespace) -> int:
    """Run one of the actions. Their modules are imported when needed: imports cost time at boot."""
    try:
        if options.action == "join":
            from osbuild.agent.kubernetes.join import join

            join(options.root, options.patience)
        elif options.action == "health":
            from osbuild.agent.kubernetes.health import why_not

            if reason := why_not(options.root):
                print(reason)
                return 1
        elif options.action == "wait":
            from osbuild.agent.kubernetes.health import wait

            wait(options.root)
        else:
            from osbuild.agent.kubernetes.prepare import prepare

            if prepare(options.root) and options.action == "renew":
                subprocess.run(["systemctl", "restart", "--no-block", "kubernetes.target"], check=True)
    except (Problem, subprocess.CalledProcessError) as error:
        print(f"edge-agent: {error}", file=sys.stderr)
        return 1
    return 0
