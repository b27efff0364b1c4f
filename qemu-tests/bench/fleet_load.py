"""wrk against the update server, or against nginx."""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.fleet_server import BASE, BUNDLE, BUSY, DEVICES, TOKEN, LoadedProcess
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

RANGE = 128 * 1024
SECONDS, PACED_SECONDS = 10, 30  # of a load
CONNECTING = 10  # seconds until the first poll at a given rate; 2,000 handshakes must be finished by then
TIMEOUT = "30s"  # wrk also counts the time in which a connection waits for its first poll
PACE = 5000  # polls in a second
# wrk's script for requests of devices by chance (wrk(1), SCRIPTING).
POLLS = """
request = function()
  return wrk.format("GET", string.format("%s/device-%06d", "BASE", math.random(0, DEVICES - 1)))
end
"""
# The same at a given rate: each connection gets the time of its next poll from one schedule for all of them, which
# begins when they are connected. wrk measures from the poll to its answer, so handshakes are not measured.
PACED = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, nanoseconds; } timespec; int clock_gettime(int, timespec *);")
local time = ffi.new("timespec")
local function milliseconds()
  ffi.C.clock_gettime(1, time)  -- CLOCK_MONOTONIC
  return tonumber(time.seconds) * 1000 + tonumber(time.nanoseconds) / 1000000
end
local next_poll
delay = function()
  local now = milliseconds()
  next_poll = math.max((next_poll or now + 1000 * CONNECTING) + 1000 / PACE, now)
  return math.floor(next_poll - now)
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


@dataclass(frozen=True)
class LoadResult:
    """What wrk has measured: requests per second, the 99th percentile in seconds, bytes per second, processor share."""

    rate: float
    slowest: float
    throughput: float
    processor: float


class Load:
    """Runs wrk against a server."""

    def __init__(self, tools: ToolsTree, folder: Path, server: LoadedProcess) -> None:
        self._tools, self._folder, self._server = tools, folder, server

    def polls(self, connections: int) -> LoadResult:
        """Poll as fast as the server answers."""
        return self._run(POLLS.replace("DEVICES", str(DEVICES)), connections, SECONDS)

    def paced_polls(self, connections: int) -> LoadResult:
        """Poll `PACE` times a second, after all connections are made."""
        paced = PACED.replace("CONNECTING", str(CONNECTING)).replace("PACE", str(PACE))
        return self._run(POLLS.replace("DEVICES", str(DEVICES)) + paced, connections, PACED_SECONDS, CONNECTING)

    def reports(self, connections: int) -> LoadResult:
        """Report as fast as the server answers."""
        return self._run(REPORTS.replace("BUSY", str(BUSY)), connections, SECONDS)

    def ranges(self, path: str, connections: int) -> LoadResult:
        """Download ranges of the bundle, which is at `path`."""
        script = RANGES.replace("BLOCKS", str(BUNDLE // RANGE)).replace("RANGE", str(RANGE)).replace("PATH", path)
        return self._run(script, connections, SECONDS)

    def _run(self, script: str, connections: int, seconds: int, before: int = 0) -> LoadResult:
        """Return what wrk measures, if requests begin `before` seconds after the connections.

        Raises `Error` if an answer was not a success.
        """
        path = self._folder / f"load-{self._server.port}.lua"
        path.write_text(script.replace('"BASE"', f'"{BASE}"'))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{before + seconds}s", "--timeout", TIMEOUT, "--latency"]
        command += [
            "-s",
            str(path),
            "-H",
            f"Authorization: GatewayToken {TOKEN}",
            f"https://127.0.0.1:{self._server.port}",
        ]
        used, begin = self._server.processor_time(), time.monotonic()
        text = subprocess.run(
            self._tools.wrap_command(command, [self._folder]), capture_output=True, text=True, check=True
        ).stdout
        processor = (self._server.processor_time() - used) / (time.monotonic() - begin)
        if failed := re.search(r"(Non-2xx.*|Socket errors.*)", text):
            raise Error(f"the load has failed: {failed[1].strip()}")
        slowest = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        transfer = re.search(r"Transfer/sec:\s+([\d.]+)(K|M|G)?B", text)
        if slowest is None or rate is None or transfer is None:
            raise Error(f"wrk's output is not as expected: {text[-500:]}")
        if not float(rate[1]):
            raise Error(f"the server has answered nothing within {seconds} s", hint="measure on an idle machine")
        units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
        sizes = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30}
        longer = (before + seconds) / seconds
        return LoadResult(
            float(rate[1]) * longer, float(slowest[1]) * units[slowest[2]],
            float(transfer[1]) * sizes[transfer[2]] * longer, processor * longer,
        )  # fmt: skip
