"""`edge-agent update commit`: once a boot has been found good and the boot loader knows it.

Every step may be done again, and is, where the one before was cut off: the floor, the cluster, the history, the end of
the update.
"""

from osbuild.agent.boot.loader import Boot
from osbuild.agent.errors import Problem
from osbuild.agent.update import boot_records, history, leftovers, minimum_version, pending, records
from osbuild.agent.update.context import UpdateContext, update_lock
from osbuild.agent.update.pending import UpdateStage


def commit_update(node: UpdateContext) -> None:
    """Finish the update that runs now, if there is one, and take the node back into its cluster.

    Raises `Problem` where the slot is still on trial, or where somebody installs, switches or goes back.
    """
    boot = node.read_boot()
    if boot.on_trial:
        hint = "systemd-bless-boot.service or edge-bless.service does that: look at its journal"
        raise Problem(f"slot {boot.slot} is on trial: the boot loader was not told that it is good", hint=hint)
    boot_records.record_verdict(node.system, True)
    with update_lock(node.system):  # a rollback meanwhile has a note of its own, which would be taken for this one
        finish_commit(node, boot)


def finish_commit(node: UpdateContext, boot: Boot) -> None:
    """The same for a slot that was found good, with nobody else at work."""
    system, update = node.system, pending.load_pending(node.system)
    version = str(system.image().get("version") or "")
    mine = update if update and update.target == boot.slot and update.stage is not UpdateStage.writing else None
    # An older version that the signer allowed to come back lowers the floor; one that was rolled back to does not.
    change = minimum_version.set_minimum if mine and mine.downgrade else minimum_version.raise_minimum
    change(system, version)
    if minimum_version.write_rauc_config(system):
        reload_rauc()
    if mine:
        # At every other boot edge-kubernetes-uncordon.service sees to it.
        arrived = node.cluster.rejoin(system) if node.cluster else {}
        records.discard_download(system)
        history.append_event(system, history.UpdateEvent.committed, mine, cluster={**mine.cluster, **arrived})
        pending.clear_pending(system)
        node.progress.report_event("committed", f"{mine.title} is good", version=version, slot=mine.target)
    if mine or not update:
        leftovers.remove(system, boot)


def reload_rauc() -> None:
    """Have RAUC read its configuration again, where its service runs and has nothing to do."""
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
