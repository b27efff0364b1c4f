"""`edge-agent fleet`: follows the update server, and carries out what it orders (runs as services)."""

import argparse
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.node_settings import AGENT_FILE

NOT_CONFIGURED, BROKEN = 1, 255  # what ExecCondition= of systemd.service(5) distinguishes: skip the unit, or fail it
CREDENTIAL = "agent.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("prepare", "find out how the last update has ended (runs before `follow`)"),
        ("follow", "ask the update server what to do, and report (runs without root rights)"),
        ("install", "install what the update server has ordered (runs when `follow` has written an order)"),
        ("request", "do what an operator has requested (runs when `follow` has received a request)"),
    ):
        commands.add_parser(name, help=help)


def main(options: argparse.Namespace) -> int:
    """Run one of the actions. Their modules are imported when needed, so that `follow` needs little memory."""
    actions = {"prepare": prepare, "follow": follow, "install": install, "request": request}
    return actions[options.action](System())


def prepare(system: System) -> int:
    """Find out how the last update has ended. Returns 1 if there is nothing to follow, 255 after an error."""
    from osbuild.agent.fleet.facts import store_serial
    from osbuild.agent.fleet.install_order import find_last_outcome
    from osbuild.agent.fleet.request_handling import find_last_result
    from osbuild.agent.fleet.settings import load_settings
    from osbuild.agent.kubernetes.first_expiry import store_first_expiry

    try:
        settings = load_settings(system)
        if settings is None:
            print("the seed names no update server with an authority")
            return NOT_CONFIGURED
        find_last_outcome(system)
        find_last_result(system, read_clock())
        store_serial(system, settings.facts)
        store_first_expiry(system.root)
    except Problem as problem:
        print(*problem.lines(), sep="\n", file=sys.stderr)
        return BROKEN
    except OSError as error:
        print(f"edge-agent: {error}", file=sys.stderr)
        return BROKEN
    return 0


def follow(system: System) -> int:
    """Follow the server for ever. Returns 1 after an error of this device."""
    from osbuild.agent.fleet.child_process import run_in_child

    folder = os.environ.get("CREDENTIALS_DIRECTORY")  # systemd.exec(5), LoadCredential=
    settings_file = f"{folder}/{CREDENTIAL}" if folder else AGENT_FILE
    state: dict[str, Any] = {}

    def poll() -> dict[str, Any]:
        # TLS and HTTP need as much memory as all the rest. A process that waits for the next poll has neither.
        from osbuild.agent.fleet.poll import PollState, poll_once

        new_state, pause = poll_once(system, settings_file, PollState(**state))
        return {"state": asdict(new_state), "pause": pause}

    while (answer := run_in_child(poll)) is not None:
        state = answer["state"]
        time.sleep(answer["pause"])
    return 1


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


def request(system: System) -> int:
    """Do what an operator has requested. The update server learns how it has ended."""
    from osbuild.agent.commands.rollback import roll_back
    from osbuild.agent.fleet.diagnostics import collect_diagnostics
    from osbuild.agent.fleet.request_handling import RequestActions, RequestHandler
    from osbuild.agent.fleet.settings import load_settings
    from osbuild.agent.fleet.wipe import wipe_device
    from osbuild.agent.systemd import reboot
    from osbuild.agent.update.context import is_busy, need_root, this_device
    from osbuild.agent.update.pending import UpdateStage, load_pending

    def roll_back_now() -> str | None:
        roll_back(this_device(), reboot=False)
        update = load_pending(system)
        switched = update is not None and update.stage is UpdateStage.switched
        return None if switched else "the update that was not booted yet is withdrawn"

    need_root()
    settings = load_settings(system)
    if settings is None:
        raise Problem("the seed names no update server with an authority", where=AGENT_FILE)
    actions = RequestActions(
        collect=lambda: collect_diagnostics(system), reboot=reboot, roll_back=roll_back_now,
        wipe=lambda announce: wipe_device(system, announce, reboot), is_busy=lambda: is_busy(system), clock=read_clock,
    )  # fmt: skip
    RequestHandler(system, settings, actions).handle_offered()
    return 0


def read_clock() -> int:
    """Return the time of this device in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
