"""The update server under load: polls, reports, bundles, idle connections, against nginx where it can do the same."""

import asyncio
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.fleet.bundles import FileStore, NewBundle, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.states import ActionKind, ActionState
from osbuild.fleet.tables import actions, devices
from osbuild.host import log
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree
from osbuild.shared.errors import Error

DEVICES, BUSY = 100_000, 10_000  # registered, and with an action in progress
CONNECTIONS, IDLE, DOWNLOADS = 2000, 10_000, 16
SECONDS = 10  # of each load
BUNDLE = 200 * 2**20  # bytes
RANGE = 128 * 1024
TOKEN = "bench-gateway"
SMALL = 64  # connections that send reports
BASE = "/DEFAULT/controller/v1"
# wrk's script for requests of devices by chance (wrk(1), SCRIPTING).
POLLS = """
request = function()
  return wrk.format("GET", string.format("%s/device-%06d", "BASE", math.random(0, DEVICES - 1)))
end
"""
REPORTS = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"status": {"execution": "proceeding", "result": {"finished": "none"}, "details": ["installing"]}}'
request = function()
  local number = math.random(1, BUSY)
  return wrk.format(nil, string.format("%s/device-%06d/deploymentBase/%d/feedback", "BASE", number - 1, number))
end
"""
RANGES = """
request = function()
  local first = math.random(0, BLOCKS - 1) * RANGE
  wrk.headers["Range"] = string.format("bytes=%d-%d", first, first + RANGE - 1)
  return wrk.format("GET", "PATH")
end
"""
NGINX = """
daemon off; user root; worker_processes 2; error_log stderr emerg; pid FOLDER/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
  server {
    listen 127.0.0.1:PORT ssl; ssl_certificate DATA/tls/server.crt; ssl_certificate_key DATA/tls/server.key;
    root DATA/files;
  }
}
"""


@dataclass(frozen=True)
class LoadResult:
    """What wrk has measured: requests per second, the 99th percentile in seconds, bytes per second, processor share."""

    rate: float
    slowest: float
    throughput: float
    processor: float


@dataclass(frozen=True)
class LoadedServer:
    """A running update server. `first_answer` is the time in seconds until it answered a poll."""

    process: subprocess.Popen[str]
    port: int
    data: Path
    first_answer: float

    def resident(self) -> float:
        """Return its resident memory in bytes."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(match[1]) * 1024 if match else 0.0

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.data / "tls/server-ca.crt")


def measure(site: BenchSite) -> Measured:
    """Measure one server on SQLite, with TLS. Raises `Error`."""
    tools = unlocked_tools_tree(site.cache, "load-tools", ("wrk", "nginx-light"), "load generator")
    data = site.folder / "fleet"
    with log.step(f"{DEVICES} devices"):
        sha256 = fill(data)
    with serving(data) as server:
        rest = server.resident()
        load = Load(tools, site.folder, server)
        with log.step("polls"):
            polls = load.run(POLLS.replace("DEVICES", str(DEVICES)), CONNECTIONS)
        with log.step("reports"):
            reports = load.run(REPORTS.replace("BUSY", str(BUSY)), SMALL)
        with log.step("bundles"):
            path = f"{BASE}/device-000000/softwaremodules/1/artifacts/bench.raucb"
            bundles = load.run(ranges(path), DOWNLOADS)
        with log.step(f"{IDLE} idle connections"):
            idle = asyncio.run(hold_connections(server))
        with serving_nginx(tools, data, site.folder) as port:
            nginx = Load(tools, site.folder, server, port).run(ranges(f"/{sha256}"), DOWNLOADS)
    mb = 10**6
    return Measured(
        [
            Figure("fleet_poll", "update server: time per poll (1 ÷ rate), TLS, 2,000 connections", 1e6 / polls.rate,
                   "µs", 200),
            Figure("fleet_poll_p99", "  99th percentile", 1000 * polls.slowest, "ms", 50),
            Figure("fleet_report", "time per durable report (1 / rate)", 1e6 / reports.rate, "µs", 500),
            Figure("fleet_bundle", "bundles, ranges of 128 KiB, 16 clients: nginx's throughput ÷ ours",
                   nginx.throughput / bundles.throughput, "×", 1.25),
            Figure("fleet_bundle_rate", "  ours", bundles.throughput / mb, "MB/s"),
            Figure("fleet_nginx_rate", "  nginx's", nginx.throughput / mb, "MB/s"),
            Figure("fleet_rest", f"memory at rest, {DEVICES} devices", rest / mb, "MB", 84),
            Figure("fleet_idle", f"memory with {IDLE} idle connections", idle / mb, "MB", 419),
            Figure("fleet_start", "start to the first answered poll", server.first_answer, "s", 1),
        ],
        f"One process of `edge-osbuild serve` on SQLite with {DEVICES} devices, TLS; wrk on the same processors. "
        f"Polls: devices by chance, {CONNECTIONS} kept-alive connections, a gateway's token. Reports: `proceeding` of "
        f"{BUSY} devices with an action, {SMALL} connections; an answer is sent after the flush of the disk. Bundles: "
        f"ranges by chance of a file of {BUNDLE} bytes in the page cache; nginx sends the same file with the same "
        f"certificate. Each load lasts {SECONDS} s. Memory is VmRSS of proc(5); 80 and 400 MiB are 84 and 419 MB.",
        {"polls": polls.__dict__, "reports": reports.__dict__, "bundles": bundles.__dict__, "nginx": nginx.__dict__},
    )  # fmt: skip


def ranges(path: str) -> str:
    """Return wrk's script for ranges of a file."""
    blocks = BUNDLE // RANGE
    return RANGES.replace("BLOCKS", str(blocks)).replace("RANGE", str(RANGE)).replace("PATH", path)


def fill(data: Path) -> str:
    """Make a data folder with devices, actions and a bundle. Returns the SHA-256 of the bundle."""
    data.mkdir(mode=0o700)
    source = data / "source"
    source.touch()
    os.truncate(source, BUNDLE)
    with source.open("rb") as file:
        stored = FileStore(data / "files").store_file(file)
    source.unlink()
    database = Database(data / "fleet.db")

    def store(connection: Connection) -> None:
        bundle = add_bundle(connection, NewBundle("bench", "1.0.0", "bench", "bench.raucb"), stored, 0)
        rows = [{"name": f"device-{number:06}", "created": 0} for number in range(DEVICES)]
        connection.execute(insert(devices), rows)
        action = {
            "bundle": bundle.id, "kind": ActionKind.forced, "state": ActionState.running, "active": True,
            "weight": 1000, "created": 0,
        }  # fmt: skip
        connection.execute(insert(actions), [{**action, "device": number} for number in range(1, BUSY + 1)])

    database.begin_change(store).result()
    database.close()
    return stored.sha256


@contextmanager
def serving(data: Path) -> Iterator[LoadedServer]:
    """Run the update server. Raises `Error` if it does not start."""
    command = [sys.executable, "-m", "osbuild", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*command, "--gateway-token", "env:EDGE_BENCH_GATEWAY"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "EDGE_BENCH_GATEWAY": TOKEN},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while not (match := re.search(r"serving at \S+:(\d+),", line := process.stderr.readline())):
            if not line:
                raise Error("the update server does not start", where=str(data))
        server = LoadedServer(process, int(match[1]), data, 0.0)
        asyncio.run(poll_once(server))
        yield LoadedServer(process, server.port, data, time.monotonic() - begin)
    finally:
        process.terminate()
        process.wait(30)


async def poll_once(server: LoadedServer) -> None:
    """Poll as one device. Raises `Error` if that is not answered with 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.context())
    writer.write(
        f"GET {BASE}/device-000001 HTTP/1.1\r\nHost: x\r\nAuthorization: GatewayToken {TOKEN}\r\n\r\n".encode()
    )
    status = await reader.readline()
    writer.close()
    if b" 200 " not in status:
        raise Error(f"the update server answers {status!r} to a poll")


async def hold_connections(server: LoadedServer) -> float:
    """Return the memory of the server in bytes while it has `IDLE` connections that have polled once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context, open_now = server.context(), asyncio.Semaphore(50)

    async def connect() -> asyncio.StreamWriter:
        async with open_now:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            return writer

    writers = await asyncio.gather(*(connect() for _ in range(IDLE)))
    try:
        return server.resident()
    finally:
        for writer in writers:
            writer.transport.abort()


@contextmanager
def serving_nginx(tools: ToolsTree, data: Path, folder: Path) -> Iterator[int]:
    """Run nginx with the server's certificate and files, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = folder / "nginx.conf"
    text = NGINX.replace("FOLDER", str(folder)).replace("DATA", str(data)).replace("PORT", str(port))
    config.write_text(text)
    process = subprocess.Popen(tools.wrap_command(["nginx", "-c", str(config), "-e", "stderr"], [folder]))
    try:
        time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


class Load:
    """Runs wrk against a server, or against another one at `port` with the same certificate."""

    def __init__(self, tools: ToolsTree, folder: Path, server: LoadedServer, port: int | None = None) -> None:
        self._tools, self._folder, self._server = tools, folder, server
        self._port = port or server.port

    def run(self, script: str, connections: int) -> LoadResult:
        """Return what wrk measures. Raises `Error` if an answer was not a success."""
        path = self._folder / "load.lua"
        path.write_text(script.replace('"BASE"', f'"{BASE}"'))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "10s", "--latency", "-s", str(path)]
        command += ["-H", f"Authorization: GatewayToken {TOKEN}", f"https://127.0.0.1:{self._port}"]
        before, begin = self._processor_time(), time.monotonic()
        text = subprocess.run(
            self._tools.wrap_command(command, [self._folder]), capture_output=True, text=True, check=True
        ).stdout
        processor = (self._processor_time() - before) / (time.monotonic() - begin)
        if failed := re.search(r"(Non-2xx.*|Socket errors.*)", text):
            raise Error(f"the load has failed: {failed[1].strip()}")
        slowest = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        transfer = re.search(r"Transfer/sec:\s+([\d.]+)(K|M|G)?B", text)
        if slowest is None or rate is None or transfer is None:
            raise Error(f"wrk's output is not as expected: {text[-500:]}")
        units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
        sizes = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30}
        return LoadResult(
            float(rate[1]), float(slowest[1]) * units[slowest[2]], float(transfer[1]) * sizes[transfer[2]], processor
        )

    def _processor_time(self) -> float:
        """Return the processor time of the update server in seconds (proc(5), `utime` and `stime`)."""
        fields = Path(f"/proc/{self._server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100
