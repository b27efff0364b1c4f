"""The update server under load: polls, reports, bundles, idle connections, against nginx where it can do the same."""

from bench.figure import Figure, Measured
from bench.fleet_connections import IDLE, measure_handshakes, measure_idle
from bench.fleet_load import PACE, PACED_SECONDS, SECONDS, Load
from bench.fleet_postgresql import PROCESSES, measure_shared_database
from bench.fleet_rollout import GROUPS, run_rollout
from bench.fleet_server import BASE, BUNDLE, BUSY, DEVICES, MEMBERS, fill_folder, serving, serving_nginx
from bench.site import BenchSite
from osbuild.host import log
from osbuild.sandbox.tools_tree import unlocked_tools_tree

CONNECTIONS, DOWNLOADS = 2000, 16
SMALL = 64  # connections that send reports
PACKAGES = ("wrk", "nginx-light", "openssl")


def measure(site: BenchSite) -> Measured:
    """Measure one server on SQLite, then two on PostgreSQL, with TLS. Raises `Error`."""
    tools = unlocked_tools_tree(site.cache, "load-tools", PACKAGES, "load generator")
    data = site.folder / "fleet"
    with log.step(f"{DEVICES} devices"):
        filled = fill_folder(data)
    with serving(data) as server:
        rest = server.resident()
        load = Load(tools, site.folder, server)
        with log.step("polls"):
            polls = load.polls(CONNECTIONS)
        with log.step(f"{PACE} polls a second"):
            paced = load.paced_polls(CONNECTIONS)
        with log.step("polls with a handshake"):
            handshakes = measure_handshakes(tools, site.folder, server, filled.token)
        with log.step("reports"):
            reports = load.reports(SMALL)
        with log.step("bundles"):
            bundles = load.ranges(f"{BASE}/device-000000/softwaremodules/1/artifacts/bench.raucb", DOWNLOADS)
        with serving_nginx(tools, data, site.folder) as other, log.step("bundles by nginx"):
            nginx = Load(tools, site.folder, other).ranges(f"/{filled.file.sha256}", DOWNLOADS)
        with log.step(f"a rollout to {MEMBERS} devices"):
            rollout = run_rollout(server, filled.token)
        with log.step(f"{IDLE} idle connections"):
            idle = measure_idle(server)
    with log.step(f"{PROCESSES} processes on PostgreSQL"):
        shared = measure_shared_database(tools, data, filled.file, site.folder)
    mb, gb = 10**6, 10**9
    return Measured(
        [
            Figure("fleet_poll", "update server: time per poll (1 ÷ rate), TLS, 2,000 connections", 1e6 / polls.rate,
                   "µs", 200),
            Figure("fleet_poll_p99", f"  99th percentile at {PACE} polls a second", 1000 * paced.slowest, "ms", 50),
            Figure("fleet_poll_paced", "  answered of them", paced.rate, "1/s"),
            Figure("fleet_handshake", "  time per poll with a new connection and certificates on both sides",
                   1e6 / handshakes, "µs"),
            Figure("fleet_report", "time per durable report (1 / rate)", 1e6 / reports.rate, "µs", 500),
            Figure("fleet_shared_poll", f"{PROCESSES} processes on one PostgreSQL: time per poll",
                   1e6 / sum(load.rate for load in shared.polls), "µs"),
            Figure("fleet_shared_report", "  time per durable report",
                   1e6 / sum(load.rate for load in shared.reports), "µs"),
            Figure("fleet_bundle", "bundles, ranges of 128 KiB, 16 clients: nginx's throughput ÷ ours",
                   nginx.throughput / bundles.throughput, "×", 1.25),
            Figure("fleet_bundle_rate", "  ours", bundles.throughput / mb, "MB/s"),
            Figure("fleet_bundle_processor", "  its processor time per GB", gb * bundles.processor / bundles.throughput,
                   "s"),
            Figure("fleet_nginx_rate", "  nginx's, which --artifact-url may name", nginx.throughput / mb, "MB/s"),
            Figure("fleet_nginx_processor", "  its processor time per GB", gb * nginx.processor / nginx.throughput,
                   "s"),
            Figure("fleet_rest", f"memory at rest, {DEVICES} devices", rest / mb, "MB", 84),
            Figure("fleet_idle", f"memory with {IDLE} idle connections, after all loads", idle / mb, "MB", 419),
            Figure("fleet_rollout", f"a rollout to {MEMBERS} devices in {GROUPS} groups", rollout.seconds, "s"),
            Figure("fleet_rollout_processor", "  processor time of the server", rollout.processor, "s"),
            Figure("fleet_start", "start to the first answered poll", server.first_answer, "s", 1),
        ],
        f"One process of `edge-osbuild serve` on SQLite with {DEVICES} devices, TLS; wrk on the same processors. "
        f"Polls: devices by chance, {CONNECTIONS} kept-alive connections, a gateway's token; then {PACE} polls a "
        f"second during {PACED_SECONDS} s, after all connections are made. A poll with a handshake is openssl "
        f"s_time's, without resumption of sessions. Reports: `proceeding` of {BUSY} devices with an action, {SMALL} "
        f"connections; an answer is sent after the flush of the disk. Bundles: ranges by chance of a file of {BUNDLE} "
        f"bytes in the page cache; nginx, with two processes, sends the same file with the same certificate. The other "
        f"loads last {SECONDS} s. The {PROCESSES} processes on PostgreSQL have a wrk each. The devices of the rollout "
        f"are simulated by one process of Python on the same processors. Memory is VmRSS of proc(5); 80 and 400 MiB "
        f"are 84 and 419 MB.",
        {
            "polls": polls.__dict__, "paced": paced.__dict__, "reports": reports.__dict__,
            "bundles": bundles.__dict__, "nginx": nginx.__dict__, "rollout": rollout.__dict__,
            "shared_polls": [load.__dict__ for load in shared.polls],
            "shared_reports": [load.__dict__ for load in shared.reports],
        },
    )  # fmt: skip
