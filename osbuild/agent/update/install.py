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
from osbuild.agent.http import ServerAddress
from osbuild.agent.update import download, history, pending, preconditions, records, switch
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.failure import BUSY, CORRUPT, NO_TIME, Failure, Reason
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.rauc import BundleManifest, RaucService, inspect_bundle, is_remote
from osbuild.agent.update.rauc_journal import InstallStatistics

DEADLINE = 3600.0  # seconds, where the profile does not say
ANSWER_TIMEOUT = 120.0  # seconds that a server gets to show what it has
LOG = "install.log"
# How what is on a server is fetched: by what is new in it, block by block as RAUC comes to them, or as one file.
AUTO, PARTS, WHOLE = "auto", "parts", "whole"
T = TypeVar("T")


@dataclass(frozen=True)
class InstallOptions:
    """`deadline` is in seconds from the start, for all attempts to fetch and write it."""

    switch: bool = True
    reboot: bool = True
    deadline: float | None = None
    fetch: str = AUTO


def install_bundle(node: UpdateContext, source: str, options: InstallOptions) -> None:
    """Install the bundle `source`, a file or an http(s) address. Raises `Problem`; then the slot that runs goes on."""
    # RAUC's service has another current folder.
    address = ServerAddress(source if is_remote(source) else str(Path(source).absolute()))
    source = address.shown  # what is reported and stored
    if address.problem:
        raise Problem(f"this is not an address: {address.problem}", hint="such as https://example.com/f.raucb")
    with update_lock(node.system):
        preconditions.check_ready(node)
        seconds = options.deadline or float((node.system.image().get("update") or {}).get("deadline", DEADLINE))
        end = time.monotonic() + seconds

        def ask() -> tuple[RaucService, str | None]:
            service = RaucService()
            return service, service.installed_hash(node.other)

        service, there = retry_until_deadline(node, source, end, ask)
        manifest = retry_until_deadline(
            node, source, end, lambda: inspect_bundle(address, min(ANSWER_TIMEOUT, max(end - time.monotonic(), 1.0)))
        )
        if service.slot != node.slot:
            hint = "the kernel's command line must have the same slot in `edge.slot=` and `rauc.slot=`"
            raise Problem(f"RAUC takes slot {service.slot} for the one that runs, not {node.slot}", hint=hint)
        downgrade = preconditions.check_bundle(node, source, manifest, service.compatible)
        update = plan_update(node, source, manifest, downgrade, there)
        node.progress.report_event(
            "bundle", f"{source}: {manifest.compatible} {manifest.version}, for slot {update.target}",
            version=manifest.version, slot=update.target,
        )  # fmt: skip
        if update.stage is UpdateStage.writing:
            whole = address.remote and downloads_whole(node, manifest, options.fetch)
            limit = preconditions.largest_bundle(manifest) if whole else None
            update = write_slot(node, update, lambda: install_from(node, update, address, end, limit))
        else:
            node.progress.report_event("installed", f"{update.title} is installed already")
        if options.switch:
            switch.switch_slot(node, update, reboot=options.reboot)
        else:
            node.progress.report_event(
                "waiting", "not switched to: `edge-agent update switch` does that", slot=update.target
            )


def plan_update(
    node: UpdateContext, source: str, manifest: BundleManifest, downgrade: bool, there: str | None
) -> PendingUpdate:
    """The update that this bundle is; what is left to do of it, where it was begun before.

    `there` is the manifest's hash of what RAUC has put into the other slot, None where it does not know.
    """
    known = pending.load_pending(node.system)
    if known and preconditions.is_installed_already(known, manifest, node.other) and there in (None, manifest.hash):
        return known
    if known:
        history.append_event(node.system, history.UpdateEvent.replaced, known)
    after = {"version": manifest.version, "kubernetes": manifest.meta.get("kubernetes", ""), "build": manifest.build}
    return PendingUpdate(
        str(uuid.uuid4()), UpdateKind.update, UpdateStage.writing, node.slot, node.other, node.image,
        {name: value for name, value in after.items() if value}, source, manifest.hash, downgrade,
        records.current_time(),
    )  # fmt: skip


def write_slot(node: UpdateContext, update: PendingUpdate, write: Callable[[], dict[str, Any]]) -> PendingUpdate:
    """Have `write` write the slot, with a note of it before and after. Raises what `write` raises."""
    system = node.system
    pending.save_pending(system, update)
    try:
        history.append_event(system, history.UpdateEvent.started, update, source=update.source)
        metadata = write()
    except BaseException as error:
        with suppress(OSError):  # what went wrong says more
            pending.clear_pending(system)
            history.append_event(
                system, history.UpdateEvent.failed, update, why=str(error) or "interrupted", source=update.source
            )
        raise
    update = replace(update, stage=UpdateStage.installed, facts=metadata)
    pending.save_pending(system, update)
    history.append_event(system, history.UpdateEvent.installed, update, facts=metadata)
    return update


def downloads_whole(node: UpdateContext, manifest: BundleManifest, how: str) -> bool:
    """Whether the bundle is fetched as one file first. Raises `Problem` where it must be, and there is no room."""
    if how == PARTS or (how == AUTO and not preconditions.is_mostly_new(node, manifest)):
        return False
    if preconditions.has_room_for_bundle(node, manifest, download.downloaded_bytes(node.system)):
        return True
    if how == WHOLE:
        raise Problem("there is no room for the whole bundle", where="/var", hint=f"{FREE}; or --fetch parts")
    node.progress.report_event("parts", "there is no room for the whole bundle: its new blocks are fetched one by one")
    return False


def install_from(
    node: UpdateContext, update: PendingUpdate, address: ServerAddress, end: float, limit: int | None
) -> dict[str, Any]:
    """Have RAUC write the slot from `address`, as often as it takes until `end`: what was installed and how.

    Raises `Problem`.

    `limit`: the bundle is fetched as one file of at most so many bytes, from which RAUC installs it; None: it is not.
    """
    from osbuild.agent.update.install_attempt import AttemptLog, InstallRequest, attempt_install

    begin, record, system = time.monotonic(), AttemptLog(), node.system
    source = address if limit is None else ServerAddress(str(download.download_path(system)))
    if limit is None:
        with suppress(OSError):
            records.discard_download(system)
    request = InstallRequest(source, update.id, end, update.downgrade)

    def once() -> InstallStatistics:
        if limit is not None:
            wanted = download.BundleDownload(address.text, update.manifest, limit, end)
            record.fetched += download.download_bundle(system, wanted, node.progress.report_progress)
        try:
            return attempt_install(system, request, node.progress.report_progress, record)
        except Failure as failure:
            if limit is None or failure.reason.kind == BUSY:
                raise
            if failure.reason.final and failure.reason != NO_TIME:
                records.discard_download(
                    system
                )  # the fault may be the file's, and would come back with it at every try
            if failure.reason.kind != CORRUPT:
                raise
            raise Failure(replace(failure.reason, final=False)) from failure  # damaged on the way: one more try

    try:
        statistics = retry_until_deadline(node, update.source, end, once)
        if limit is not None:
            statistics.fetched = record.fetched
        if retry_until_deadline(node, update.source, end, lambda: RaucService().installed_hash(update.target)) not in (
            None,
            update.manifest,
        ):
            node.boot_loader.reject(node.system, update.target)
            message = "what the server sent at last is not what it had shown at first"
            raise Problem(message, where=update.source, hint="it was refused; try again")
    except Failure as failure:
        raise failure.problem(update.source) from failure
    finally:
        node.progress.end_line()
        store_log(node, [address.hide(line) for line in record.lines])
    with suppress(OSError):
        records.discard_download(system)
    seconds = time.monotonic() - begin
    node.progress.report_event(
        "installed", f"{update.title}: installed in {seconds:.0f} s", seconds=round(seconds, 1), **statistics.to_json()
    )
    if line := statistics.summary_line():
        node.progress.report_event("adaptive", line)
    return {"seconds": round(seconds, 1), **statistics.to_json()}


def retry_until_deadline(node: UpdateContext, source: str, end: float, act: Callable[[], T]) -> T:
    """Do it until it works, or fails for a reason that stays, or the time is over. Raises `Problem`."""
    corrupt, last = 0, ""
    for wait in retry_delays():
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
            node.progress.report_event(
                "retry", f"{why.message}; again in {wait:.0f} s", why=why.message, wait=round(wait, 1)
            )
            time.sleep(wait)
    raise AssertionError("the waits never end")


def retry_delays() -> Iterator[float]:
    """Seconds from one attempt to the next: 2, 4, 8, to a minute, and a little by chance: a fleet comes in a crowd."""
    for number in itertools.count(1):
        yield min(2.0**number, 60.0) * random.uniform(0.75, 1.25)


def store_log(node: UpdateContext, lines: list[str]) -> None:
    """Keep what RAUC said, for `explain`: the journal may be gone by then."""
    from osbuild.agent.update.rauc_journal import KEPT

    with suppress(OSError):  # no reason to give up an installation
        records.save_rows(node.system, LOG, [{"line": line[:300]} for line in lines if line], count=KEPT, size=16384)
