"""One attempt to let RAUC write the other slot. An attempt that hangs is stopped."""

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

PAUSE = 0.5  # seconds between two polls
# Seconds without a byte while a request is open. Linux would give up on a request to an nbd device after 300 s.
STALL = 120.0
LOST = re.compile(r"no chunk with required hash \[(\w+)")


@dataclass(frozen=True)
class InstallRequest:
    """What to install. `end` is the deadline by time.monotonic(); `any_version` ignores the minimum version."""

    source: ServerAddress
    transaction: str
    end: float
    any_version: bool = False


@dataclass
class AttemptLog:
    """Collected over all attempts: lines of RAUC, blocks that stopped an attempt (`find_lost_block`), fetched bytes."""

    lines: list[str] = field(default_factory=list)
    lost_blocks: set[str] = field(default_factory=set)
    fetched: int = 0


class StallDetector:
    """Detects a server that sends nothing for `patience` seconds without closing the connection."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.since = time.monotonic()
        self.fetched = -1

    def poll(self, traffic: NbdCounters) -> bool:
        """Whether the server has stalled. Before the first byte, all time counts, because nothing else happens then."""
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
    """Install once. `progress` is called with percent, the current step and fetched bytes. Raises `Failure`."""
    remote, service = request.source.remote, RaucService()
    traffic, stall_detector = NbdCounters(system), StallDetector(stall)
    traffic.start()
    with KernelMessages(system) as kernel, JournalFollower() as log:
        try:
            service.start_install(request.source, request.transaction, any_version=request.any_version)
            while (state := service.read_state()).operation == INSTALLING:
                traffic.poll()
                progress(state.percent, state.message, record.fetched + traffic.fetched if remote else None)
                deadline_passed = time.monotonic() > request.end
                # After an I/O error, RAUC would copy the whole image to the same failing disk.
                if (deadline_passed or any(FALLBACK in line for line in log.read_lines())) and failing_disk(
                    kernel.read_lines()
                ):
                    raise Failure(find_reason("the slot cannot be written", remote=remote, kernel=kernel.read_lines()))
                if deadline_passed:
                    raise Failure(NO_TIME)
                if remote and stall_detector.poll(traffic):
                    hint = "check the network and the server"
                    raise Failure(Reason(f"the server sent nothing for {stall:.0f} s", hint, False))
                if remote and (block := find_lost_block(log.read_lines())) and block not in record.lost_blocks:
                    record.lost_blocks.add(block)
                    raise Failure(find_reason("a block cannot be read", remote=True, kernel=kernel.read_lines()))
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
    """The block that RAUC could not read and because of which it now copies the whole image; None if there is none."""
    # A new attempt costs less than the whole copy, because RAUC finds the blocks that it has written already. If the
    # new attempt stops at the same block, only the whole copy is left.
    for line in lines:
        if FALLBACK in line and (match := LOST.search(line)):
            return match[1]
    return None
