"""A rollout to simulated devices: they poll, and report success when they are told to install."""

import asyncio
import json
import random
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.fleet_server import BASE, DEVICES, MEMBERS, LoadedServer, send_request
from osbuild.fleet.client import FleetClient
from osbuild.fleet.contexts import FleetContext
from osbuild.fleet.management.messages import NewGroup, NewRollout
from osbuild.fleet.states import RolloutState
from osbuild.shared.errors import Error

GROUPS, CONNECTIONS = 10, 16
SUCCESS = json.dumps({"status": {"execution": "closed", "result": {"finished": "success"}}}).encode()


@dataclass(frozen=True)
class RolloutResult:
    """The duration of a rollout and the processor time of the server, both in seconds; polls of the devices."""

    seconds: float
    processor: float
    polls: int


def run_rollout(server: LoadedServer, token: str) -> RolloutResult:
    """Run a rollout to `MEMBERS` devices in `GROUPS` groups, each of which needs the success of all. Raises `Error`."""
    context = FleetContext(f"https://127.0.0.1:{server.port}", server.authority.read_text(), token)
    client = FleetClient(context)
    groups = [NewGroup(100 / GROUPS) for _ in range(GROUPS)]
    before, begin = server.processor_time(), time.monotonic()
    client.create_rollout(NewRollout("bench", 1, groups, {"version": "0.9.*"}, now=True))
    polls = asyncio.run(_follow_all(server))
    result = RolloutResult(time.monotonic() - begin, server.processor_time() - before, polls)
    state = client.read_rollout("bench").state
    if state != RolloutState.finished:
        raise Error(f"the rollout of the measurement is {state}")
    return result


async def _follow_all(server: LoadedServer) -> int:
    """Let each device poll in turn, in a new order each time, until it has installed. Return the number of polls."""
    waiting, polls = list(range(DEVICES - MEMBERS, DEVICES)), 0
    for _ in range(3 * GROUPS):
        random.shuffle(waiting)
        polls += len(waiting)
        shares = [waiting[number::CONNECTIONS] for number in range(CONNECTIONS)]
        context = server.context()
        rest = await asyncio.gather(*(_follow(server.port, context, share) for share in shares))
        waiting = [device for part in rest for device in part]
        if not waiting:
            break
    return polls


async def _follow(port: int, context: ssl.SSLContext, devices: Sequence[int]) -> list[int]:
    """Let devices poll once on one connection. Return those that were not told to install."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    idle = []
    for device in devices:
        path = f"{BASE}/device-{device:06}"
        links = json.loads(await send_request(reader, writer, "GET", path))["_links"]
        if "deploymentBase" not in links:
            idle.append(device)
            continue
        action = links["deploymentBase"]["href"].rpartition("/")[2].partition("?")[0]
        await send_request(reader, writer, "POST", f"{path}/deploymentBase/{action}/feedback", SUCCESS)
    writer.close()
    return idle
