"""The switch to the other slot: drain the node, switch the boot loader, reboot. A failed switch is undone."""

from contextlib import suppress
from dataclasses import replace

from osbuild.agent.errors import Problem
from osbuild.agent.update import history, pending, records
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import ProgressEvent

DRAIN = 120.0  # seconds until the node must be drained


def drain_deadline(context: UpdateContext) -> float:
    """Seconds that the profile allows for draining the node."""
    seconds = context.system.image().update.drain_deadline
    return DRAIN if seconds is None else float(seconds)


def switch_slot(context: UpdateContext, update: PendingUpdate, *, reboot: bool) -> None:
    """Switch to the installed slot `update.target`. Raises `Problem` after undoing a failed switch."""
    system, progress = context.system, context.progress
    try:
        cluster_result = {}
        if context.cluster:
            progress.report_event(ProgressEvent.cluster, "draining the node")
            cluster_result = context.cluster.prepare_reboot(
                system, drain_deadline(context), lambda text: progress.report_event(ProgressEvent.cluster, text)
            )
        update = replace(update, stage=UpdateStage.switched, cluster=cluster_result, boot=records.read_boot_id(system))
        pending.save_pending(system, update)
        context.boot_loader.switch_to(system, update.target)
        next_slot = context.boot_loader.next_slot(system)
        if next_slot != update.target:
            raise Problem(
                f"the boot loader starts slot {next_slot or '?'} next instead of {update.target}", where="/efi"
            )
    except BaseException as error:
        problem = as_problem(error, update)
        undo_switch(context, update, str(problem) or "interrupted", complete=not isinstance(error, FileNotFoundError))
        raise problem from error
    history.append_event(system, history.UpdateEvent.switched, update, cluster=cluster_result)
    progress.report_event(
        ProgressEvent.switched,
        f"{update.title} will be booted next",
        version=update.after.get("version"),
        slot=update.target,
    )
    if reboot:
        progress.report_event(ProgressEvent.reboot, "rebooting")
        context.reboot()
    else:
        progress.report_event(ProgressEvent.waiting, "reboot to try it")


def as_problem(error: BaseException, update: PendingUpdate) -> BaseException:
    """Convert an exception to a `Problem` with a hint. Other exceptions than `Exception` are returned unchanged."""
    retry_hint = "the running slot is not changed; try again with `edge-agent update switch`"
    if isinstance(error, FileNotFoundError):
        return Problem(f"slot {update.target} has no boot image", where=error.filename, hint="install the update again")
    if isinstance(error, OSError):
        where = error.filename or "/efi"
        return Problem(f"slot {update.target} cannot be switched to: {error.strerror}", where=where, hint=retry_hint)
    if isinstance(error, Problem):
        return Problem(error.message, where=error.where, hint=error.hint or retry_hint)
    return Problem(str(error), hint=retry_hint) if isinstance(error, Exception) else error


def undo_switch(context: UpdateContext, update: PendingUpdate, reason: str, *, complete: bool) -> None:
    """Undo a failed switch: the node rejoins its cluster, and a `complete` update can be switched to later.

    A full disk or similar may make some of the steps fail; the other steps are still done.
    """
    with suppress(OSError):  # the switch may have succeeded before the failure
        if context.boot_loader.next_slot(context.system) == update.target:
            context.boot_loader.reject(context.system, update.target)
    with suppress(OSError):
        if update.kind is UpdateKind.update and complete:
            pending.save_pending(context.system, replace(update, stage=UpdateStage.installed))
        else:
            history.close_pending(context.system, update)
    with suppress(OSError):
        history.append_event(context.system, history.UpdateEvent.not_switched, None, why=f"{update.title}: {reason}")
    rejoin_cluster(context)


def rejoin_cluster(context: UpdateContext) -> None:
    """Uncordon the node; if the cluster does not answer, schedule it for later."""
    if context.cluster and "problem" in context.cluster.rejoin(context.system):
        with suppress(Problem):  # the next boot uncordons the node
            context.later()


def withdraw_switch(context: UpdateContext, update: PendingUpdate) -> None:
    """Withdraw a switch before the reboot. Raises `OSError`."""
    context.boot_loader.reject(context.system, update.target)
    history.append_event(context.system, history.UpdateEvent.withdrawn, update)
    history.close_pending(context.system, update)
    rejoin_cluster(context)
    context.progress.report_event(
        ProgressEvent.withdrawn, f"{update.title} is withdrawn; slot {context.slot} stays in use", slot=context.slot
    )


def switch_pending(context: UpdateContext, *, reboot: bool) -> None:
    """Switch to the installed update, or reboot if that is done already. Raises `Problem`."""
    with update_lock(context.system):
        update = pending.load_pending(context.system)
        if update is None or update.stage is UpdateStage.writing:
            raise Problem(
                "no update is installed that could be switched to", hint="run `edge-agent update install` first"
            )
        boot = context.read_boot()
        if update.target == context.slot:
            raise Problem(f"{update.title} is already running", hint="see `edge-agent update status`")
        if boot.on_trial:
            hint = "wait for the verdict (`edge-agent update status`)"
            raise Problem(f"slot {context.slot} is still on trial", hint=hint)
        if update.stage is UpdateStage.switched and context.boot_loader.next_slot(context.system) == update.target:
            context.progress.report_event(
                ProgressEvent.switched, f"{update.title} will be booted next", slot=update.target
            )
            if reboot:
                context.reboot()
            return
        switch_slot(context, update, reboot=reboot)
