"""One poll of the update server, and what is remembered until the next one."""

import sys
import time
from dataclasses import dataclass, replace

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.attributes import read_attributes
from osbuild.agent.fleet.connection import FleetServer, next_pause
from osbuild.agent.fleet.follower import Follower
from osbuild.agent.fleet.identity import authority_context, identity_files, prepare_identity, rotate_identity
from osbuild.agent.fleet.order import OrderedInstaller
from osbuild.agent.fleet.request_carrier import RequestCarrier
from osbuild.agent.fleet.settings import load_settings
from osbuild.agent.system import System

CHECK_IDENTITY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class PollState:
    """What one poll leaves for the next: failed attempts in a row, the digest of the attributes that the server has,
    the last action that was reported to wait, and when the identity was checked, in seconds of the monotonic clock.
    """

    failures: int = 0
    described: str = ""
    postponed: str = ""
    identity_checked: float | None = None


def poll_once(system: System, settings_file: str, state: PollState) -> tuple[PollState, float]:
    """Enrol if needed, poll, and do what the server asks. Return the new state and the seconds until the next poll.

    Raises `Problem` and `OSError` if this device prevents it. An unreachable server is printed.
    """
    settings = load_settings(system, settings_file)
    if settings is None:
        raise Problem("the seed names no update server with an authority", where=settings_file)
    now, checked = time.monotonic(), state.identity_checked
    try:
        if settings.authorization:
            context = authority_context(settings)
        elif checked is not None and now < checked + CHECK_IDENTITY:
            context = identity_files(system).make_context()
        else:
            context, checked = prepare_identity(system, settings).make_context(), now
    except Problem as problem:
        print(*problem.lines(), sep="\n", file=sys.stderr)
        failures = state.failures + 1
        return replace(state, failures=failures), next_pause(failures)

    def rotate() -> FleetServer:
        return FleetServer(settings.base, rotate_identity(system, settings).make_context())

    follower = Follower(
        system, FleetServer(settings.base, context, settings.authorization), OrderedInstaller(system),
        lambda: read_attributes(system, settings), RequestCarrier(system, rotate), failures=state.failures,
        described=state.described, windows=settings.windows, postponed=state.postponed,
    )  # fmt: skip
    pause = follower.step()
    return PollState(follower.failures, follower.described, follower.postponed, checked), pause
