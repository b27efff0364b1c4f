"""The update server under load: polls, reports, bundles, idle connections, against nginx where it can do the same."""

import asyncio
import resource

from bench.figure import Figure, Measured
from bench.fleet_load import PACE, PACED_SECONDS, SECONDS, Load
from bench.fleet_rollout import GROUPS, run_rollout
from bench.fleet_server import BASE, BUNDLE, BUSY, DEVICES, MEMBERS, LoadedServer, fill, serving, serving_nginx
from bench.site import BenchSite
from osbuild.host import log
from osbuild.sandbox.tools_tree import unlocked_tools_tree

CONNECTIONS, IDLE, DOWNLOADS = 2000, 10_000, 16
SMALL = 64  # connections that send reports


def measure(site: BenchSite) -> Measured:
    """Measure one server on SQLite, with TLS. Raises `Error`."""
    tools = unlocked_tools_tree(site.cache, "load-tools", ("wrk", "nginx-light"), "load generator")
    data = site.folder / "fleet"
    with log.step(f"{DEVICES} devices"):
        filled = fill(data)
    with serving(data) as server:
        rest = server.resident()
        load = Load(tools, site.folder, server)
        with log.step("polls"):
            polls = load.polls(CONNECTIONS)
        with log.step(f"{PACE} polls a second"):
            paced = load.paced_polls(CONNECTIONS)
        with log.step("reports"):
            reports = load.reports(SMALL)
        with log.step("bundles"):
            bundles = load.ranges(f"{BASE}/device-000000/softwaremodules/1/artifacts/bench.raucb", DOWNLOADS)
        with log.step(f"{IDLE} idle connections"):
            idle = asyncio.run(hold_connections(server))
        with log.step(f"a rollout to {MEMBERS} devices"):
            rollout = run_rollout(server, filled.token)
        with serving_nginx(tools, data, site.folder) as port:
            nginx = Load(tools, site.folder, server, port).ranges(f"/{filled.sha256}", DOWNLOADS)
    mb = 10**6
    return Measured(
        [
            Figure("fleet_poll", "update server: time per poll (1 ÷ rate), TLS, 2,000 connections", 1e6 / polls.rate,
                   "µs", 200),
            Figure("fleet_poll_p99", f"  99th percentile at {PACE} polls a second", 1000 * paced.slowest, "ms", 50),
            Figure("fleet_poll_paced", "  answered of them", paced.rate, "1/s"),
            Figure("fleet_report", "time per durable report (1 / rate)", 1e6 / reports.rate, "µs", 500),
            Figure("fleet_bundle", "bundles, ranges of 128 KiB, 16 clients: nginx's throughput ÷ ours",
                   nginx.throughput / bundles.throughput, "×", 1.25),
            Figure("fleet_bundle_rate", "  ours", bundles.throughput / mb, "MB/s"),
            Figure("fleet_nginx_rate", "  nginx's", nginx.throughput / mb, "MB/s"),
            Figure("fleet_rest", f"memory at rest, {DEVICES} devices", rest / mb, "MB", 84),
            Figure("fleet_idle", f"memory with {IDLE} idle connections", idle / mb, "MB", 419),
            Figure("fleet_rollout", f"a rollout to {MEMBERS} devices in {GROUPS} groups", rollout.seconds, "s"),
            Figure("fleet_rollout_processor", "  processor time of the server", rollout.processor, "s"),
            Figure("fleet_start", "start to the first answered poll", server.first_answer, "s", 1),
        ],
        f"One process of `edge-osbuild serve` on SQLite with {DEVICES} devices, TLS; wrk on the same processors. "
        f"Polls: devices by chance, {CONNECTIONS} kept-alive connections, a gateway's token; then with a wait "
        f"between two polls of each connection, so that {PACE} polls a second are asked for, during "
        f"{PACED_SECONDS} s. Reports: `proceeding` of {BUSY} devices with an action, {SMALL} connections; an "
        f"answer is sent after the flush of the disk. Bundles: ranges by chance of a file of {BUNDLE} bytes in the "
        f"page cache; nginx sends the same file with the same certificate. The other loads last {SECONDS} s. The "
        f"devices of the rollout are simulated by one process of Python on the same processors. Memory is VmRSS of "
        f"proc(5); 80 and 400 MiB are 84 and 419 MB.",
        {
            "polls": polls.__dict__, "paced": paced.__dict__, "reports": reports.__dict__,
            "bundles": bundles.__dict__, "nginx": nginx.__dict__, "rollout": rollout.__dict__,
        },
    )  # fmt: skip


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
