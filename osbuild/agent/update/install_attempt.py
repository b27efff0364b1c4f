"""One attempt to have RAUC write the other slot, watched: it goes on, it fails, or it is ended because it hangs."""

import re
import time
from dataclasses import dataclass, field

from osbuild.agent.http import ServerAddress
from osbuild.agent.system import System
from osbuild.agent.update import rauc_journal
from osbuild.agent.update.failure import BUSY, NO_TIME, Failure, Reason, failing_disk, find_reason
from osbuild.agent.update.kernel_log import KernelMessages
from osbuild.agent.update.nbd_counters import NbdCounters
from osbuild.agent.update.progress import ProgressCallback
from osbuild.agent.update.rauc import INSTALLING, RaucService
from osbuild.agent.update.rauc_journal import FALLBACK, InstallStatistics, JournalFollower

PAUSE = 0.5
# Seconds without a byte while a request is out. Linux itself gives up on a request to such a device after 300 s.
STALL = 120.0
LOST = re.compile(r"no chunk with required hash \[(\w+)")


@dataclass(frozen=True)
class InstallRequest:
    """What to install; `end` is when to give up, by time.monotonic()."""

    source: ServerAddress
    transaction: str
    end: float
    any_version: bool = False


@dataclass
class AttemptLog:
    """Over all attempts: RAUC's lines, blocks at which one was ended (`find_lost_block`), bytes that failed ones
    fetched.
    """

    lines: list[str] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)
    fetched: int = 0


class StallDetector:
    """Notices when a server neither sends nor fails."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.since = time.monotonic()
        self.fetched = -1

    def poll(self, traffic: NbdCounters) -> bool:
        """Whether nothing has come for too long. Before the first byte every second counts: nothing else happens."""
        if traffic.fetched != self.fetched or not (traffic.waiting or not traffic.counts):
            self.since, self.fetched = time.monotonic(), traffic.fetched
        return time.monotonic() - self.since > self.patience


def attempt_install(
    system: System,
    request: InstallRequest,
    progress: ProgressCallback,
    record: AttemptLog,
    *,
    stall: float = STALL,
) -> InstallStatistics:
    """Install once; `progress` is told percent, what is done, and bytes fetched. Raises `Failure`."""
    remote, service = request.source.remote, RaucService()
    traffic, stalled = NbdCounters(system), StallDetector(stall)
    traffic.start()
    with KernelMessages(system) as kernel, JournalFollower() as log:
        try:
            service.start_install(request.source, request.transaction, any_version=request.any_version)
            while (state := service.read_state()).operation == INSTALLING:
                traffic.poll()
                progress(state.percent, state.message, record.fetched + traffic.fetched if remote else None)
                over = time.monotonic() > request.end
                # RAUC then copies the whole image instead, to the same disk.
                if (over or any(FALLBACK in line for line in log.read_lines())) and failing_disk(kernel.read_lines()):
                    raise Failure(find_reason("the slot can't be written", remote=remote, kernel=kernel.read_lines()))
                if over:
                    raise Failure(NO_TIME)
                if remote and stalled.poll(traffic):
                    hint = "check the network and the server"
                    raise Failure(Reason(f"the server sent nothing for {stall:.0f} s", hint, False))
                if remote and (block := find_lost_block(log.read_lines())) and block not in record.given_up:
                    record.given_up.add(block)
                    raise Failure(find_reason("a block can't be read", remote=True, kernel=kernel.read_lines()))
                time.sleep(PAUSE)
        except BaseException as error:
            if not (isinstance(error, Failure) and error.reason.kind == BUSY):
                service.stop()
            record.lines += log.read_lines()
            record.fetched += traffic.fetched
            raise
        record.lines += log.read_all_lines()
        if state.error:
            record.fetched += traffic.fetched
            raise Failure(
                find_reason(request.source.hide(state.error), remote=remote, kernel=kernel.read_lines(), log=log.lines)
            )
        statistics = rauc_journal.read_statistics(log.lines)
        if remote:
            statistics.fetched = record.fetched + (
                traffic.fetched if statistics.fetched is None else statistics.fetched
            )
        return statistics


def find_lost_block(lines: list[str]) -> str | None:
    """The block that RAUC could not read, where it now copies the whole image instead.

    A server that is back a moment later would have to send all of it. It costs less to begin again, when RAUC finds
    what it has written before. Should it stop at the same block again, the whole copy is what is left.
    """
    for line in lines:
        if FALLBACK in line and (match := LOST.search(line)):
            return match[1]
    return None
