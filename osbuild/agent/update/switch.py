"""From one slot to the other: the cluster is left, the boot loader is told, and the node reboots. Or none of it."""

from contextlib import suppress
from dataclasses import replace

from osbuild.agent.errors import Problem
from osbuild.agent.update import history, pending, records
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage

DRAIN = 120.0  # seconds that pods get to move or end


def drain_deadline(node: UpdateContext) -> float:
    """How many seconds the profile gives to leave the cluster."""
    return float((node.system.image().get("update") or {}).get("drain_deadline", DRAIN))


def switch_slot(node: UpdateContext, update: PendingUpdate, *, reboot: bool) -> None:
    """Switch to `found.target`, which is whole. Raises `Problem` where that can't be done; then nothing has changed."""
    system, report = node.system, node.progress
    try:
        facts = {}
        if node.cluster:
            report.report_event("cluster", "leaving the cluster")
            facts = node.cluster.prepare_reboot(
                system, drain_deadline(node), lambda text: report.report_event("cluster", text)
            )
        update = replace(update, stage=UpdateStage.switched, cluster=facts, boot=records.read_boot_id(system))
        pending.save_pending(system, update)
        node.boot_loader.switch_to(system, update.target)
        first = node.boot_loader.next_slot(system)
        if first != update.target:
            raise Problem(f"the boot loader takes slot {first or '?'} next, and not {update.target}", where="/efi")
    except BaseException as error:
        problem = as_problem(error, update)
        undo_switch(node, update, str(problem) or "interrupted", whole=not isinstance(error, FileNotFoundError))
        raise problem from error
    history.append_event(system, history.UpdateEvent.switched, update, cluster=facts)
    report.report_event(
        "switched", f"{update.title} is booted next", version=update.after.get("version"), slot=update.target
    )
    if reboot:
        report.report_event("reboot", "rebooting")
        node.reboot()
    else:
        report.report_event("waiting", "reboot to try it")


def as_problem(error: BaseException, update: PendingUpdate) -> BaseException:
    """The same as a `Problem`, where it is one that people can do something about."""
    again = "the slot that runs is not touched; try again with `edge-agent update switch`"
    if isinstance(error, FileNotFoundError):
        return Problem(f"slot {update.target} has no boot file", where=error.filename, hint="install the update again")
    if isinstance(error, OSError):
        where = error.filename or "/efi"
        return Problem(f"slot {update.target} can't be switched to: {error.strerror}", where=where, hint=again)
    if isinstance(error, Problem):
        return Problem(error.message, where=error.where, hint=error.hint or again)
    return Problem(str(error), hint=again) if isinstance(error, Exception) else error


def undo_switch(node: UpdateContext, update: PendingUpdate, why: str, *, whole: bool) -> None:
    """Undo what a switch that failed has begun: the node belongs to its cluster again, and an update that is `whole`
    waits to be switched to.

    What made it fail may make a part of this fail too, such as a disk that is full: the others are done all the same.
    """
    with suppress(OSError):  # it may have been told, and have failed after that
        if node.boot_loader.next_slot(node.system) == update.target:
            node.boot_loader.reject(node.system, update.target)
    with suppress(OSError):
        if update.kind is UpdateKind.update and whole:
            pending.save_pending(node.system, replace(update, stage=UpdateStage.installed))
        else:
            history.close_pending(node.system, update)
    with suppress(OSError):
        history.append_event(node.system, history.UpdateEvent.not_switched, None, why=f"{update.title}: {why}")
    rejoin_cluster(node)


def rejoin_cluster(node: UpdateContext) -> None:
    """Have the node taken back into its cluster, later where that does not answer now."""
    if node.cluster and "problem" in node.cluster.rejoin(node.system):
        with suppress(Problem):  # then it is done at the next boot
            node.later()


def withdraw_switch(node: UpdateContext, update: PendingUpdate) -> None:
    """Take back a switch before it was booted. Raises `OSError`."""
    node.boot_loader.reject(node.system, update.target)
    history.append_event(node.system, history.UpdateEvent.withdrawn, update)
    history.close_pending(node.system, update)
    rejoin_cluster(node)
    node.progress.report_event("withdrawn", f"{update.title} is not booted: slot {node.slot} goes on", slot=node.slot)


def switch_pending(node: UpdateContext, *, reboot: bool) -> None:
    """Switch to what is installed, or reboot into what is switched to already. Raises `Problem`."""
    with update_lock(node.system):
        update = pending.load_pending(node.system)
        if update is None or update.stage is UpdateStage.writing:
            raise Problem("nothing is installed that could be switched to", hint="`edge-agent update install` first")
        boot = node.read_boot()
        if update.target == node.slot:
            raise Problem(f"{update.title} runs already", hint="`edge-agent update status` says how far it is")
        if boot.on_trial:
            hint = "wait for the verdict: `edge-agent update status`"
            raise Problem(f"slot {node.slot} is still on trial itself", hint=hint)
        if update.stage is UpdateStage.switched and node.boot_loader.next_slot(node.system) == update.target:
            node.progress.report_event("switched", f"{update.title} is booted next", slot=update.target)
            if reboot:
                node.reboot()
            return
        switch_slot(node, update, reboot=reboot)
