"""Connections to the update server: idle ones, and one with a mutual TLS handshake for each poll."""

import asyncio
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.fleet_load import SECONDS
from bench.fleet_server import BASE, LoadedServer, send_request
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from tests.support.update_server import RunningServer, create_token

IDLE = 10_000
DEVICE = "device-000000"
CLIENTS = 4  # openssl s_time(1) has one connection at a time
DAY = 24 * 3600 * 1000  # milliseconds


def measure_idle(server: LoadedServer) -> float:
    """Return the memory of the server in bytes while it has `IDLE` connections, each of which has polled once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(_hold_connections(server))


async def _hold_connections(server: LoadedServer) -> float:
    context, open_now = server.context(), asyncio.Semaphore(50)

    async def connect(number: int) -> asyncio.StreamWriter:
        async with open_now:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            await send_request(reader, writer, "GET", f"{BASE}/device-{number:06}")
            return writer

    writers = await asyncio.gather(*(connect(number) for number in range(IDLE)))
    try:
        return server.resident()
    finally:
        for writer in writers:
            writer.transport.abort()


def measure_handshakes(tools: ToolsTree, folder: Path, server: LoadedServer, token: str) -> float:
    """Return how many polls a second are answered if each of them has a new connection with the device's certificate.

    Raises `Error`.
    """
    running = RunningServer(f"https://127.0.0.1:{server.port}", server.data, token, server.process)
    enrolment = create_token(running, uses=1, device=DEVICE)
    path = f"{BASE}/{DEVICE}"
    with running.enrol(DEVICE, enrolment, folder) as device:
        answer = device.get(path)
    if answer.status_code != 200:
        raise Error(f"the update server answers {answer.status_code} to a device with its certificate")
    command: list[str | Path] = [
        "openssl", "s_time", "-connect", f"127.0.0.1:{server.port}", "-new", "-www", path, "-time", str(SECONDS),
        "-CAfile", server.authority, "-cert", folder / f"{DEVICE}.crt", "-key", folder / f"{DEVICE}.key",
    ]  # fmt: skip
    wrapped = tools.wrap_command(command, [folder])
    with _running_together(wrapped) as processes:
        texts = [process.communicate()[0] for process in processes]
    polls = 0
    for text in texts:
        match = re.search(r"(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", text)
        # A refusal has no body.
        if match is None or int(match[2]) < len(answer.content):
            raise Error(f"the polls of openssl s_time were not answered: {text[-500:]}")
        polls += int(match[1])
    return polls / SECONDS


@contextmanager
def _running_together(command: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Run `CLIENTS` processes of a command."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
