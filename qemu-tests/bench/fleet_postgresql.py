"""Two processes of the update server on one PostgreSQL."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.fleet_load import Load, LoadResult
from bench.fleet_server import fill_database, serving
from osbuild.fleet.bundles import StoredFile
from osbuild.fleet.postgresql import parse_address
from osbuild.host import log
from osbuild.sandbox.tools_tree import ToolsTree
from tests.support.postgresql import running_postgresql, text_of

PROCESSES = 2
CONNECTIONS, REPORTERS = 1000, 32  # to each of the processes, which poll or report


@dataclass(frozen=True)
class SharedResult:
    """What wrk has measured at each process."""

    polls: Sequence[LoadResult]
    reports: Sequence[LoadResult]


def measure_shared_database(tools: ToolsTree, data: Path, stored: StoredFile, folder: Path) -> SharedResult:
    """Measure `PROCESSES` servers, each with a load of its own at the same time. Raises `Error`.

    Their database is new. `data` has their certificates and the bundle.
    """
    with running_postgresql() as postgresql, ExitStack() as stack:
        address = parse_address(text_of(postgresql.create_database()))
        fill_database(address, stored)
        servers = [stack.enter_context(serving(data, address)) for _ in range(PROCESSES)]
        loads = [Load(tools, folder, server) for server in servers]
        with log.step("polls"):
            polls = _run_together(loads, lambda load: load.polls(CONNECTIONS))
        with log.step("reports"):
            reports = _run_together(loads, lambda load: load.reports(REPORTERS))
    return SharedResult(polls, reports)


def _run_together(loads: Sequence[Load], run: Callable[[Load], LoadResult]) -> Sequence[LoadResult]:
    with ThreadPoolExecutor(len(loads)) as pool:
        return list(pool.map(run, loads))
