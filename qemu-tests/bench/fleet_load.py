"""wrk against the update server, or against nginx."""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.fleet_server import BASE, BUNDLE, BUSY, DEVICES, TOKEN, LoadedServer
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

RANGE = 128 * 1024
SECONDS, PACED_SECONDS = 10, 60  # of a load: the slowest answers at its begin must be fewer than one percent
PACE = 5000  # polls in a second
# wrk's script for requests of devices by chance (wrk(1), SCRIPTING).
POLLS = """
request = function()
  return wrk.format("GET", string.format("%s/device-%06d", "BASE", math.random(0, DEVICES - 1)))
end
"""
# The same from connections that wait between two polls, so that together they ask for PACE polls a second. Without the
# wait, the slowest answer would only say how many connections there are.
PACED = """
delay = function()
  return math.random(0, 2 * WAIT)
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
    """Runs wrk against a server, or against another one at `port` with the same certificate."""

    def __init__(self, tools: ToolsTree, folder: Path, server: LoadedServer, port: int | None = None) -> None:
        self._tools, self._folder, self._server = tools, folder, server
        self._port = port or server.port

    def polls(self, connections: int) -> LoadResult:
        """Poll as fast as the server answers."""
        return self._run(POLLS.replace("DEVICES", str(DEVICES)), connections, SECONDS)

    def paced_polls(self, connections: int) -> LoadResult:
        """Poll `PACE` times a second."""
        script = POLLS.replace("DEVICES", str(DEVICES)) + PACED.replace("WAIT", str(1000 * connections // PACE))
        return self._run(script, connections, PACED_SECONDS)

    def reports(self, connections: int) -> LoadResult:
        """Report as fast as the server answers."""
        return self._run(REPORTS.replace("BUSY", str(BUSY)), connections, SECONDS)

    def ranges(self, path: str, connections: int) -> LoadResult:
        """Download ranges of the bundle, which is at `path`."""
        script = RANGES.replace("BLOCKS", str(BUNDLE // RANGE)).replace("RANGE", str(RANGE)).replace("PATH", path)
        return self._run(script, connections, SECONDS)

    def _run(self, script: str, connections: int, seconds: int) -> LoadResult:
        """Return what wrk measures. Raises `Error` if an answer was not a success."""
        path = self._folder / "load.lua"
        path.write_text(script.replace('"BASE"', f'"{BASE}"'))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(path)]
        command += ["-H", f"Authorization: GatewayToken {TOKEN}", f"https://127.0.0.1:{self._port}"]
        before, begin = self._server.processor_time(), time.monotonic()
        text = subprocess.run(
            self._tools.wrap_command(command, [self._folder]), capture_output=True, text=True, check=True
        ).stdout
        processor = (self._server.processor_time() - before) / (time.monotonic() - begin)
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
