"""An update from a bundle to the reboot: looked at, written to the other slot, switched to."""

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from osbuild.agent.errors import FREE, Problem
from osbuild.agent.update import check, download, history, pending, state, switch
from osbuild.agent.update.journal import Facts
from osbuild.agent.update.node import Node, alone
from osbuild.agent.update.pending import INSTALLED, WRITING, Pending
from osbuild.agent.update.rauc import Manifest, Service, inspect, is_remote
from osbuild.agent.update.reason import BUSY, CORRUPT, NO_TIME, Failure, Reason
from osbuild.agent.web import Address

DEADLINE = 3600.0  # seconds, where the profile does not say
ANSWER = 120.0  # seconds that a server gets to show what it has
LOG = "install.log"
# How what is on a server is fetched: by what is new in it, block by block as RAUC comes to them, or as one file.
AUTO, PARTS, WHOLE = "auto", "parts", "whole"
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """`deadline` is in seconds from the start, for all attempts to fetch and write it."""

    switch: bool = True
    reboot: bool = True
    deadline: float | None = None
    fetch: str = AUTO


def install(node: Node, source: str, options: Options) -> None:
    """Install the bundle `source`, a file or an http(s) address. Raises `Problem`; then the slot that runs goes on."""
    # RAUC's service has another current folder.
    address = Address(source if is_remote(source) else str(Path(source).absolute()))
    source = address.shown  # what is reported and stored
    if address.problem:
        raise Problem(f"this is not an address: {address.problem}", hint="such as https://example.com/f.raucb")
    with alone(node.system):
        check.ready(node)
        seconds = options.deadline or float((node.system.image().get("update") or {}).get("deadline", DEADLINE))
        end = time.monotonic() + seconds

        def ask() -> tuple[Service, str | None]:
            service = Service()
            return service, service.installed(node.other)

        service, there = insist(node, source, end, ask)
        manifest = insist(node, source, end, lambda: inspect(address, min(ANSWER, max(end - time.monotonic(), 1.0))))
        if service.slot != node.slot:
            hint = "the kernel's command line must have the same slot in `edge.slot=` and `rauc.slot=`"
            raise Problem(f"RAUC takes slot {service.slot} for the one that runs, not {node.slot}", hint=hint)
        downgrade = check.bundle(node, source, manifest, service.compatible)
        found = plan(node, source, manifest, downgrade, there)
        node.report.event(
            "bundle", f"{source}: {manifest.compatible} {manifest.version}, for slot {found.target}",
            version=manifest.version, slot=found.target,
        )  # fmt: skip
        if found.stage == WRITING:
            whole = address.remote and wants_whole(node, manifest, options.fetch)
            limit = check.limit(manifest) if whole else None
            found = carry_out(node, found, lambda: fetch(node, found, address, end, limit))
        else:
            node.report.event("installed", f"{found.title} is installed already")
        if options.switch:
            switch.turn(node, found, restart=options.reboot)
        else:
            node.report.event("waiting", "not switched to: `edge-agent update switch` does that", slot=found.target)


def plan(node: Node, source: str, manifest: Manifest, downgrade: bool, there: str | None) -> Pending:
    """The update that this bundle is; what is left to do of it, where it was begun before.

    `there` is the manifest's hash of what RAUC has put into the other slot, None where it does not know.
    """
    known = pending.load(node.system)
    if known and check.fits(known, manifest, node.other) and there in (None, manifest.hash):
        return known
    if known:
        history.append(node.system, "replaced", known)
    after = {"version": manifest.version, "kubernetes": manifest.meta.get("kubernetes", ""), "build": manifest.build}
    return Pending(
        str(uuid.uuid4()), "update", WRITING, node.slot, node.other, node.image,
        {name: value for name, value in after.items() if value}, source, manifest.hash, downgrade, state.now(),
    )  # fmt: skip


def carry_out(node: Node, found: Pending, write: Callable[[], dict[str, Any]]) -> Pending:
    """Have `write` write the slot, with a note of it before and after. Raises what `write` raises."""
    system = node.system
    pending.save(system, found)
    try:
        history.append(system, "started", found, source=found.source)
        facts = write()
    except BaseException as error:
        with suppress(OSError):  # what went wrong says more
            pending.clear(system)
            history.append(system, "failed", found, why=str(error) or "interrupted", source=found.source)
        raise
    found = replace(found, stage=INSTALLED, facts=facts)
    pending.save(system, found)
    history.append(system, "installed", found, facts=facts)
    return found


def wants_whole(node: Node, manifest: Manifest, how: str) -> bool:
    """Whether the bundle is fetched as one file first. Raises `Problem` where it must be, and there is no room."""
    if how == PARTS or (how == AUTO and not check.mostly_new(node, manifest)):
        return False
    if check.room_for_whole(node, manifest, download.have(node.system)):
        return True
    if how == WHOLE:
        raise Problem("there is no room for the whole bundle", where="/var", hint=f"{FREE}; or --fetch parts")
    node.report.event("parts", "there is no room for the whole bundle: its new blocks are fetched one by one")
    return False


def fetch(node: Node, found: Pending, address: Address, end: float, limit: int | None) -> dict[str, Any]:
    """Have RAUC write the slot from `address`, as often as it takes until `end`: what was installed and how.

    Raises `Problem`.

    `limit`: the bundle is fetched as one file of at most so many bytes, from which RAUC installs it; None: it is not.
    """
    from osbuild.agent.update.attempt import Record, Wanted, attempt

    begin, record, system = time.monotonic(), Record(), node.system
    source = address if limit is None else Address(str(download.path(system)))
    if limit is None:
        with suppress(OSError):
            state.discard(system)
    wanted = Wanted(source, found.id, end, found.downgrade)

    def once() -> Facts:
        if limit is not None:
            record.fetched += download.fetch(system, address.text, found.manifest, limit, end, node.report.progress)
        try:
            return attempt(system, wanted, node.report.progress, record)
        except Failure as failure:
            if limit is None or failure.reason.kind == BUSY:
                raise
            if failure.reason.final and failure.reason != NO_TIME:
                state.discard(system)  # the fault may be the file's, and would come back with it at every try
            if failure.reason.kind != CORRUPT:
                raise
            raise Failure(replace(failure.reason, final=False)) from failure  # damaged on the way: one more try

    try:
        facts = insist(node, found.source, end, once)
        if limit is not None:
            facts.fetched = record.fetched
        if insist(node, found.source, end, lambda: Service().installed(found.target)) not in (None, found.manifest):
            node.flow.reject(node.system, found.target)
            message = "what the server sent at last is not what it had shown at first"
            raise Problem(message, where=found.source, hint="it was refused; try again")
    except Failure as failure:
        raise failure.problem(found.source) from failure
    finally:
        node.report.end()
        keep(node, [address.hide(line) for line in record.lines])
    with suppress(OSError):
        state.discard(system)
    seconds = time.monotonic() - begin
    node.report.event(
        "installed", f"{found.title}: installed in {seconds:.0f} s", seconds=round(seconds, 1), **facts.plain()
    )
    if line := facts.line():
        node.report.event("adaptive", line)
    return {"seconds": round(seconds, 1), **facts.plain()}


def insist(node: Node, source: str, end: float, act: Callable[[], T]) -> T:
    """Do it until it works, or fails for a reason that stays, or the time is over. Raises `Problem`."""
    corrupt, last = 0, ""
    for wait in waits():
        try:
            return act()
        except Failure as failure:
            why, over = failure.reason, end - time.monotonic() <= wait
            if (why == NO_TIME or (over and not why.final)) and last not in ("", why.message):  # it had no time left
                why = replace(why, message=f"{why.message}, after this: {last}")
            last = failure.reason.message
            corrupt += why.kind == CORRUPT
            if why.final or corrupt > 1:
                raise Failure(why).problem(source) from failure
            if over:
                hint = f"{why.hint}; then try again, or give it more time: --deadline SECONDS"
                raise Failure(Reason(f"{why.message}, and the time is over", hint)).problem(source) from failure
            node.report.event("retry", f"{why.message}; again in {wait:.0f} s", why=why.message, wait=round(wait, 1))
            time.sleep(wait)
    raise AssertionError("the waits never end")


def waits() -> Iterator[float]:
    """Seconds from one attempt to the next: 2, 4, 8, to a minute, and a little by chance: a fleet comes in a crowd."""
    for number in itertools.count(1):
        yield min(2.0**number, 60.0) * random.uniform(0.75, 1.25)


def keep(node: Node, lines: list[str]) -> None:
    """Keep what RAUC said, for `explain`: the journal may be gone by then."""
    from osbuild.agent.update.journal import KEPT

    with suppress(OSError):  # no reason to give up an installation
        state.save_rows(node.system, LOG, [{"line": line[:300]} for line in lines if line], count=KEPT, size=16384)
