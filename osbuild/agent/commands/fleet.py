"""`edge-agent fleet`: follows the update server, and carries out what it orders (runs as services)."""

import argparse
import os
import sys
import time

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.node_settings import AGENT_FILE

NOT_CONFIGURED, BROKEN = 1, 255  # what ExecCondition= of systemd.service(5) distinguishes: skip the unit, or fail it
CREDENTIAL = "agent.json"
CHECK_CERTIFICATE = 24 * 3600.0  # seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("prepare", "find out how the last update has ended (runs before `follow`)"),
        ("follow", "ask the update server what to do, and report (runs without root rights)"),
        ("install", "install what the update server has ordered (runs when `follow` has written an order)"),
    ):
        commands.add_parser(name, help=help)


def main(options: argparse.Namespace) -> int:
    """Run one of the actions. Their modules are imported when needed, so that `follow` needs little memory."""
    actions = {"prepare": prepare, "follow": follow, "install": install}
    return actions[options.action](System())


def prepare(system: System) -> int:
    """Find out how the last update has ended. Returns 1 if there is nothing to follow, 255 after an error."""
    from osbuild.agent.fleet.install_order import find_last_outcome
    from osbuild.agent.fleet.settings import load_settings

    try:
        if load_settings(system) is None:
            print("the seed names no update server with an authority")
            return NOT_CONFIGURED
        find_last_outcome(system)
    except Problem as problem:
        print(*problem.lines(), sep="\n", file=sys.stderr)
        return BROKEN
    except OSError as error:
        print(f"edge-agent: {error}", file=sys.stderr)
        return BROKEN
    return 0


def follow(system: System) -> int:
    """Enrol if needed, then follow the server for ever."""
    from osbuild.agent.fleet.attributes import read_attributes
    from osbuild.agent.fleet.connection import FleetServer, next_pause
    from osbuild.agent.fleet.follower import Follower
    from osbuild.agent.fleet.identity import authority_context, prepare_identity
    from osbuild.agent.fleet.order import OrderedInstaller
    from osbuild.agent.fleet.settings import load_settings

    folder = os.environ.get("CREDENTIALS_DIRECTORY")  # systemd.exec(5), LoadCredential=
    settings = load_settings(system, f"{folder}/{CREDENTIAL}" if folder else AGENT_FILE)
    if settings is None:
        raise Problem("the seed names no update server with an authority", where=AGENT_FILE)
    failures = 0
    while True:
        try:
            if settings.authorization:
                context = authority_context(settings)
            else:
                context = prepare_identity(system, settings).make_context()
        except Problem as problem:
            print(*problem.lines(), sep="\n", file=sys.stderr, flush=True)
            failures += 1
            time.sleep(next_pause(failures))
            continue
        failures = 0
        server = FleetServer(settings.base, context, settings.authorization)
        follower = Follower(
            system, server, OrderedInstaller(system), lambda: read_attributes(system), windows=settings.windows
        )
        follower.follow(CHECK_CERTIFICATE)


def install(system: System) -> int:
    """Install what was ordered. The update server learns of a failure."""
    from osbuild.agent.fleet.install_order import install_ordered
    from osbuild.agent.fleet.order import forget_taken_order
    from osbuild.agent.fleet.settings import load_settings
    from osbuild.agent.update.context import handle_signals, need_root, this_device

    need_root()
    handle_signals()
    try:
        settings = load_settings(system)
        if settings is None:
            raise Problem("the seed names no update server with an authority", where=AGENT_FILE)
        install_ordered(this_device(), settings)
    finally:
        forget_taken_order(system)
    return 0
