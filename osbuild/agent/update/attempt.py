"""One attempt to have RAUC write the other slot, watched: it goes on, it fails, or it is ended because it hangs."""

import re
import time
from dataclasses import dataclass, field

from osbuild.agent.system import System
from osbuild.agent.update import journal
from osbuild.agent.update.journal import FALLBACK, Facts, Follower
from osbuild.agent.update.kernel import Messages
from osbuild.agent.update.rauc import INSTALLING, Service
from osbuild.agent.update.reason import BUSY, NO_TIME, Failure, Reason, disk_fails, reason
from osbuild.agent.update.report import Progress
from osbuild.agent.update.traffic import Traffic
from osbuild.agent.web import Address

PAUSE = 0.5
# Seconds without a byte while a request is out. Linux itself gives up on a request to such a device after 300 s.
STALL = 120.0
LOST = re.compile(r"no chunk with required hash \[(\w+)")


@dataclass(frozen=True)
class Wanted:
    """What to install; `end` is when to give up, by time.monotonic()."""

    source: Address
    transaction: str
    end: float
    any_version: bool = False


@dataclass
class Record:
    """Over all attempts: RAUC's lines, blocks at which one was ended (`lost_block`), bytes that failed ones fetched."""

    lines: list[str] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)
    fetched: int = 0


class Stalled:
    """Notices when a server neither sends nor fails."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.since = time.monotonic()
        self.fetched = -1

    def look(self, traffic: Traffic) -> bool:
        """Whether nothing has come for too long. Before the first byte every second counts: nothing else happens."""
        if traffic.fetched != self.fetched or not (traffic.waiting or not traffic.counts):
            self.since, self.fetched = time.monotonic(), traffic.fetched
        return time.monotonic() - self.since > self.patience


def attempt(
    system: System,
    wanted: Wanted,
    progress: Progress,
    record: Record,
    *,
    stall: float = STALL,
) -> Facts:
    """Install once; `progress` is told percent, what is done, and bytes fetched. Raises `Failure`."""
    remote, service = wanted.source.remote, Service()
    traffic, stalled = Traffic(system), Stalled(stall)
    traffic.start()
    with Messages(system) as kernel, Follower() as log:
        try:
            service.start(wanted.source, wanted.transaction, any_version=wanted.any_version)
            while (state := service.state()).operation == INSTALLING:
                traffic.look()
                progress(state.percent, state.message, record.fetched + traffic.fetched if remote else None)
                over = time.monotonic() > wanted.end
                # RAUC then copies the whole image instead, to the same disk.
                if (over or any(FALLBACK in line for line in log.read())) and disk_fails(kernel.read()):
                    raise Failure(reason("the slot can't be written", remote=remote, kernel=kernel.read()))
                if over:
                    raise Failure(NO_TIME)
                if remote and stalled.look(traffic):
                    hint = "check the network and the server"
                    raise Failure(Reason(f"the server sent nothing for {stall:.0f} s", hint, False))
                if remote and (block := lost_block(log.read())) and block not in record.given_up:
                    record.given_up.add(block)
                    raise Failure(reason("a block can't be read", remote=True, kernel=kernel.read()))
                time.sleep(PAUSE)
        except BaseException as error:
            if not (isinstance(error, Failure) and error.reason.kind == BUSY):
                service.stop()
            record.lines += log.read()
            record.fetched += traffic.fetched
            raise
        record.lines += log.finish()
        if state.error:
            record.fetched += traffic.fetched
            raise Failure(reason(wanted.source.hide(state.error), remote=remote, kernel=kernel.read(), log=log.lines))
        found = journal.facts(log.lines)
        if remote:
            found.fetched = record.fetched + (traffic.fetched if found.fetched is None else found.fetched)
        return found


def lost_block(lines: list[str]) -> str | None:
    """The block that RAUC could not read, where it now copies the whole image instead.

    A server that is back a moment later would have to send all of it. It costs less to begin again, when RAUC finds
    what it has written before. Should it stop at the same block again, the whole copy is what is left.
    """
    for line in lines:
        if FALLBACK in line and (found := LOST.search(line)):
            return found[1]
    return None
