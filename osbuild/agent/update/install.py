"""Installation of a bundle: check it, write the other slot, switch to it, reboot."""

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
from osbuild.agent.http import ServerAddress, ServerToken, TlsFiles
from osbuild.agent.update import download, history, pending, preconditions, records, switch
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.failure import BUSY, CORRUPT, NO_TIME, Failure, Reason
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import ProgressEvent
from osbuild.agent.update.rauc import BundleManifest, RaucService, inspect_bundle, is_remote
from osbuild.agent.update.rauc_journal import InstallStatistics

DEADLINE = 3600.0  # seconds, if the profile does not set it
ANSWER_TIMEOUT = 120.0  # seconds until a server must have sent the manifest
LOG = "install.log"
RESERVE = 64 * 2**20  # bytes of the data partition that no bundle takes
# How a bundle is fetched from a server: depending on its contents, block by block while RAUC installs, or as one file.
AUTO, PARTS, WHOLE = "auto", "parts", "whole"
T = TypeVar("T")


@dataclass(frozen=True)
class InstallOptions:
    """`deadline` limits all attempts together, in seconds from the start. `fetch` is AUTO, PARTS or WHOLE.

    `tls` are the files for a server that asks for a certificate. From a server that asks for `token`, the bundle is
    downloaded as one file, because RAUC's command line would show the token. `reference` is stored with the events of
    the update. `before_switch` may raise `Problem`; then the slot is written, and not switched to.
    """

    switch: bool = True
    reboot: bool = True
    deadline: float | None = None
    fetch: str = AUTO
    tls: TlsFiles | None = None
    token: ServerToken | None = None
    reference: str = ""
    before_switch: Callable[[], None] = lambda: None


def install_bundle(context: UpdateContext, source: str, options: InstallOptions) -> None:
    """Install the bundle `source`, a file or an http(s) address. Raises `Problem`; then the running slot stays next."""
    # RAUC's service has another working directory.
    address = ServerAddress(source if is_remote(source) else str(Path(source).absolute()), options.tls, options.token)
    source = address.shown  # this form is reported and stored
    if address.problem:
        raise Problem(
            f"this address is not valid: {address.problem}", hint="write one like https://example.com/f.raucb"
        )
    with update_lock(context.system):
        preconditions.check_ready(context)
        limit = context.system.image().update.deadline
        seconds = options.deadline or (DEADLINE if limit is None else float(limit))
        end = time.monotonic() + seconds

        def query_rauc() -> tuple[RaucService, str | None]:
            service = RaucService()
            return service, service.installed_hash(context.other)

        service, installed_hash = retry_until_deadline(context, source, end, query_rauc)
        inspected = retry_until_deadline(context, source, end, lambda: fetch_first(context, address, end))
        manifest = retry_until_deadline(
            context,
            source,
            end,
            lambda: inspect_bundle(inspected, min(ANSWER_TIMEOUT, max(end - time.monotonic(), 1.0))),
        )
        if inspected != address:
            download.rename_download(context.system, manifest.hash)
        if service.slot != context.slot:
            hint = "the kernel command line must name the same slot in `edge.slot=` and `rauc.slot=`"
            raise Problem(f"RAUC reports {service.slot} as the running slot instead of {context.slot}", hint=hint)
        downgrade = preconditions.check_bundle(context, source, manifest, service.compatible)
        update = plan_update(context, source, manifest, downgrade, installed_hash)
        update = replace(update, reference=options.reference)
        context.progress.report_event(
            ProgressEvent.bundle, f"{source}: {manifest.compatible} {manifest.version}, for slot {update.target}",
            version=manifest.version, slot=update.target,
        )  # fmt: skip
        if update.stage is UpdateStage.writing:
            whole = inspected != address or (address.remote and downloads_whole(context, manifest, options.fetch))
            limit = preconditions.largest_bundle(manifest) if whole else None
            update = write_slot(context, update, lambda: install_from(context, update, address, end, limit))
        else:
            context.progress.report_event(ProgressEvent.installed, f"{update.title} is already installed")
            if inspected != address:
                records.discard_download(context.system)
        if options.switch:
            options.before_switch()
            switch.switch_slot(context, update, reboot=options.reboot)
        else:
            context.progress.report_event(
                ProgressEvent.waiting, "not switched to; run `edge-agent update switch`", slot=update.target
            )


def fetch_first(context: UpdateContext, address: ServerAddress, end: float) -> ServerAddress:
    """Download a bundle if its server asks for a token. Return the address that RAUC reads. Raises `Failure`."""
    if address.token is None:
        return address
    limit = max((preconditions.free_space(context) or 0) + download.downloaded_bytes(context.system) - RESERVE, 0)
    bundle = download.BundleDownload(address.text, address.shown, limit, end, token=address.token)
    download.download_bundle(context.system, bundle, context.progress.report_progress)
    return ServerAddress(str(download.download_path(context.system)))


def plan_update(
    context: UpdateContext, source: str, manifest: BundleManifest, downgrade: bool, installed_hash: str | None
) -> PendingUpdate:
    """The pending update for this bundle. If the bundle is already installed, this is the existing one.

    `installed_hash` is the manifest hash of the bundle in the other slot; None if RAUC does not know it.
    """
    existing = pending.load_pending(context.system)
    if (
        existing
        and preconditions.is_installed_already(existing, manifest, context.other)
        and installed_hash in (None, manifest.hash)
    ):
        return existing
    if existing:
        history.append_event(context.system, history.UpdateEvent.replaced, existing)
    after = {"version": manifest.version, "kubernetes": manifest.meta.get("kubernetes", ""), "build": manifest.build}
    return PendingUpdate(
        str(uuid.uuid4()), UpdateKind.update, UpdateStage.writing, context.slot, context.other, context.image,
        {name: value for name, value in after.items() if value}, source, manifest.hash, downgrade,
        records.current_time(),
    )  # fmt: skip


def write_slot(context: UpdateContext, update: PendingUpdate, write: Callable[[], dict[str, Any]]) -> PendingUpdate:
    """Call `write`, and record the stage of the update before and after. Raises what `write` raises."""
    system = context.system
    pending.save_pending(system, update)
    try:
        history.append_event(system, history.UpdateEvent.started, update, source=update.source)
        details = write()
    except BaseException as error:
        with suppress(OSError):  # the first error is more important
            pending.clear_pending(system)
            history.append_event(
                system, history.UpdateEvent.failed, update, why=str(error) or history.INTERRUPTED, source=update.source
            )
        raise
    update = replace(update, stage=UpdateStage.installed, facts=details)
    pending.save_pending(system, update)
    history.append_event(system, history.UpdateEvent.installed, update, facts=details)
    return update


def downloads_whole(context: UpdateContext, manifest: BundleManifest, fetch: str) -> bool:
    """Whether to download the bundle first. Raises `Problem` if that is requested but there is no space."""
    if fetch == PARTS or (fetch == AUTO and not preconditions.is_mostly_new(context, manifest)):
        return False
    if preconditions.has_room_for_bundle(context, manifest, download.downloaded_bytes(context.system)):
        return True
    if fetch == WHOLE:
        raise Problem("there is no space for the whole bundle", where="/var", hint=f"{FREE}; or use --fetch parts")
    context.progress.report_event(
        ProgressEvent.parts, "there is no space for the whole bundle; new blocks are fetched one by one"
    )
    return False


def install_from(
    context: UpdateContext, update: PendingUpdate, address: ServerAddress, end: float, limit: int | None
) -> dict[str, Any]:
    """Let RAUC write the slot from `address`, with retries until `end`. Returns statistics. Raises `Problem`.

    With `limit`, the bundle is first downloaded as one file of at most `limit` bytes.
    """
    from osbuild.agent.update.install_attempt import AttemptLog, InstallRequest, attempt_install

    begin, record, system = time.monotonic(), AttemptLog(), context.system
    source = address if limit is None else ServerAddress(str(download.download_path(system)))
    if limit is None:
        with suppress(OSError):
            records.discard_download(system)
    request = InstallRequest(source, update.id, end, update.downgrade)

    def install_once() -> InstallStatistics:
        if limit is not None:
            bundle = download.BundleDownload(
                address.text, update.manifest, limit, end, tls=address.tls, token=address.token
            )
            record.fetched += download.download_bundle(system, bundle, context.progress.report_progress)
        try:
            return attempt_install(system, request, context.progress.report_progress, record)
        except Failure as failure:
            if limit is None or failure.reason.kind == BUSY:
                raise
            if failure.reason.final and failure.reason != NO_TIME:
                # The downloaded file may be the cause, and would make every retry fail.
                records.discard_download(system)
            if failure.reason.kind != CORRUPT:
                raise
            raise Failure(replace(failure.reason, final=False)) from failure  # damaged during the transfer: one retry

    try:
        statistics = retry_until_deadline(context, update.source, end, install_once)
        if limit is not None:
            statistics.fetched = record.fetched
        if retry_until_deadline(
            context, update.source, end, lambda: RaucService().installed_hash(update.target)
        ) not in (
            None,
            update.manifest,
        ):
            context.boot_loader.reject(context.system, update.target)
            message = "the server replaced the bundle during the installation"
            raise Problem(message, where=update.source, hint="the slot was rejected; try again")
    except Failure as failure:
        raise failure.problem(update.source) from failure
    finally:
        context.progress.end_line()
        store_log(context, [address.hide(line) for line in record.lines])
    with suppress(OSError):
        records.discard_download(system)
    seconds = time.monotonic() - begin
    context.progress.report_event(
        ProgressEvent.installed,
        f"{update.title}: installed in {seconds:.0f} s",
        seconds=round(seconds, 1),
        **statistics.to_json(),
    )
    if line := statistics.summary_line():
        context.progress.report_event(ProgressEvent.adaptive, line)
    return {"seconds": round(seconds, 1), **statistics.to_json()}


def retry_until_deadline(context: UpdateContext, source: str, end: float, action: Callable[[], T]) -> T:
    """Call `action` until it succeeds, fails for a final reason, or the deadline has passed. Raises `Problem`."""
    corrupt, last_message = 0, ""
    for wait in retry_delays():
        try:
            return action()
        except Failure as failure:
            reason, deadline_passed = failure.reason, end - time.monotonic() <= wait
            if (reason == NO_TIME or (deadline_passed and not reason.final)) and last_message not in (
                "",
                reason.message,
            ):
                # The last attempt was cut short, so the error before it says more.
                reason = replace(reason, message=f"{reason.message}; the error before: {last_message}")
            last_message = failure.reason.message
            corrupt += reason.kind == CORRUPT
            if reason.final or corrupt > 1:
                raise Failure(reason).problem(source) from failure
            if deadline_passed:
                hint = f"{reason.hint}; then try again, or allow more time with --deadline SECONDS"
                raise Failure(Reason(f"{reason.message}; the deadline has passed", hint)).problem(source) from failure
            context.progress.report_event(
                ProgressEvent.retry,
                f"{reason.message}; retrying in {wait:.0f} s",
                why=reason.message,
                wait=round(wait, 1),
            )
            time.sleep(wait)
    raise AssertionError("the waits never end")


def retry_delays() -> Iterator[float]:
    """Delays between attempts in seconds, without end: 2, 4, 8, ..., 60. Jitter spreads the retries of a fleet."""
    for number in itertools.count(1):
        yield min(2.0**number, 60.0) * random.uniform(0.75, 1.25)


def store_log(context: UpdateContext, lines: list[str]) -> None:
    """Store the log of RAUC for `edge-agent explain`, because the journal may be gone by then."""
    from osbuild.agent.update.rauc_journal import STORED_LINES

    with suppress(OSError):  # not important enough to make the installation fail
        records.save_rows(
            context.system, LOG, [{"line": line[:300]} for line in lines if line], count=STORED_LINES, size=16384
        )
