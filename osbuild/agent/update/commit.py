"""`edge-agent update commit`: finishes an update after its slot is good.

Every step can be repeated: minimum version, cluster, history, end of the update. After a power cut, the next boot
repeats them.
"""

from osbuild.agent.boot.loader import Boot
from osbuild.agent.errors import Problem
from osbuild.agent.update import boot_records, history, leftovers, minimum_version, pending, records
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.pending import UpdateStage
from osbuild.agent.update.progress import ProgressEvent


def commit_update(context: UpdateContext) -> None:
    """Finish the update of the running slot, if there is one, and let the node rejoin its cluster.

    Raises `Problem` if the slot is still on trial, or if an update, switch or rollback is running.
    """
    boot = context.read_boot()
    if boot.on_trial:
        hint = "see `journalctl -u systemd-bless-boot -u edge-bless`"
        raise Problem(f"slot {boot.slot} is still on trial: it was not marked as good", hint=hint)
    boot_records.record_verdict(context.system, True)
    with update_lock(context.system):  # a concurrent rollback replaces pending.json
        finish_commit(context, boot)


def finish_commit(context: UpdateContext, boot: Boot) -> None:
    """Commit the update of the running good slot. The caller holds the update lock."""
    system, update = context.system, pending.load_pending(context.system)
    version = system.image().version or ""
    committed = update if update and update.target == boot.slot and update.stage is not UpdateStage.writing else None
    # A downgrade that the signer allows lowers the minimum version; a rollback does not.
    set_version = minimum_version.set_minimum if committed and committed.downgrade else minimum_version.raise_minimum
    set_version(system, version)
    if minimum_version.write_rauc_config(system):
        reload_rauc()
    if committed:
        # At every other boot, edge-kubernetes-uncordon.service uncordons the node.
        cluster_result = context.cluster.rejoin(system) if context.cluster else {}
        records.discard_download(system)
        history.append_event(
            system, history.UpdateEvent.committed, committed, cluster={**committed.cluster, **cluster_result}
        )
        pending.clear_pending(system)
        context.progress.report_event(
            ProgressEvent.committed, f"{committed.title} is good", version=version, slot=committed.target
        )
    if committed or not update:
        leftovers.remove(system, boot)


def reload_rauc() -> None:
    """Stop RAUC's service if it is idle, so that it reads its configuration when it starts again."""
    from osbuild.agent.update import dbus
    from osbuild.agent.update.failure import Failure
    from osbuild.agent.update.rauc import INSTALLING, NAME, RaucService

    if dbus.name_owner(NAME) is None:
        return
    try:
        service = RaucService()
        if service.read_state().operation != INSTALLING:
            service.stop()
    except Failure:
        return
