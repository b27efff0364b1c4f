"""`edge-agent rollback`: returns to the other slot, whose image has to pass its health checks like an update."""

import argparse
import uuid
from dataclasses import asdict, replace

from osbuild.agent.errors import Problem
from osbuild.agent.update import boot_records, pending, records, switch
from osbuild.agent.update.context import UpdateContext, handle_signals, need_root, this_device, update_lock
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import ProgressEvent

INSTALL_HINT = "install an image there with `edge-agent update install`"


def roll_back(context: UpdateContext, *, reboot: bool) -> None:
    """Switch to the other slot, or withdraw a switch that was not booted yet. Raises `Problem`."""
    with update_lock(context.system):
        boot, update = context.read_boot(), pending.load_pending(context.system)
        if update and update.stage is UpdateStage.switched and update.target == context.other:
            switch.withdraw_switch(context, update)
            return
        check_other_slot(context, update)
        rollback = plan_rollback(context)
        context.progress.report_event(
            ProgressEvent.plan,
            f"rolling back to {rollback.title}",
            version=rollback.after.get("version"),
            slot=rollback.target,
        )
        if text := describe_data(context, rollback):
            context.progress.report_event(ProgressEvent.cluster, text)
        if update and update.target == boot.slot:  # the running update ends when the other slot is booted
            rollback = replace(rollback, facts={pending.GIVEN_UP: asdict(update)})
        switch.switch_slot(context, rollback, reboot=reboot)


def check_other_slot(context: UpdateContext, update: PendingUpdate | None) -> None:
    """Raise `Problem` unless the other slot has an image that was good."""
    other, boot = context.other, context.read_boot()
    if boot.entry is None:
        raise Problem("the boot entries cannot be read", where="/efi", hint="check that /efi is mounted")
    if update and update.target == other and update.kind is UpdateKind.update:
        state = "was only partly written" if update.stage is UpdateStage.writing else "was never booted"
        hint = "try it with `edge-agent update switch`" if update.stage is UpdateStage.installed else INSTALL_HINT
        raise Problem(f"slot {other} contains {update.after.get('version') or 'an image'}, which {state}", hint=hint)
    entry = next((entry for entry in boot.others if entry.slot == other), None)
    if entry is None:
        raise Problem(f"slot {other} has no bootable image", hint=INSTALL_HINT)
    if entry.state == "bad":
        raise Problem(f"slot {other} is marked as bad: it has failed, or was only partly written", hint=INSTALL_HINT)
    if entry.state == "trial":
        raise Problem(f"slot {other} is still on trial and has tries left", hint="reboot to try it")


def plan_rollback(context: UpdateContext) -> PendingUpdate:
    """The rollback as a pending update. Version and Kubernetes are taken from the last boot of the slot."""
    last_boot = boot_records.last_boot_of(context.system, context.other) or {}
    after = {name: last_boot[name] for name in ("version", "kubernetes") if last_boot.get(name)}
    return PendingUpdate(
        str(uuid.uuid4()),
        UpdateKind.rollback,
        UpdateStage.installed,
        context.slot,
        context.other,
        context.image,
        after,
        since=records.current_time(),
    )


def describe_data(context: UpdateContext, rollback: PendingUpdate) -> str | None:
    """What the rollback will do to the cluster data, as text; None without a cluster."""
    if context.cluster is None:
        return None
    try:
        loss = context.cluster.rollback_loss(context.system, rollback.after.get("kubernetes"))
    except Exception as error:
        return f"the effect on the cluster data is unknown: {error}"
    if loss is None:
        return "the cluster data is kept"
    if "snapshot" not in loss:
        return f"the cluster data is kept: {loss.get('problem')}"
    counts = ", ".join(f"{count} {kind}" for kind, count in (loss.get("counts") or {}).items() if count)
    lost = counts or loss.get("problem") or "nothing"
    return f"the cluster data is restored from the snapshot of {loss.get('taken')}; lost changes: {lost}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-reboot", action="store_true", help="switch, but do not reboot")


def main(options: argparse.Namespace) -> int:
    need_root()
    handle_signals()
    roll_back(this_device(), reboot=not options.no_reboot)
    return 0
