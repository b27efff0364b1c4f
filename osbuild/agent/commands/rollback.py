"""Goes back to the other slot by hand: what ran there before is tried again, with the cluster's data following it."""

import argparse
import uuid
from dataclasses import asdict, replace

from osbuild.agent.errors import Problem
from osbuild.agent.update import boot_records, pending, records, switch
from osbuild.agent.update.context import UpdateContext, handle_signals, need_root, this_device, update_lock
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage

LIKE_INSTALL = "`edge-agent update install` puts an image there"


def roll_back(node: UpdateContext, *, reboot: bool) -> None:
    """Switch to the other slot, or take back a switch that was not booted yet. Raises `Problem`."""
    with update_lock(node.system):
        boot, update = node.read_boot(), pending.load_pending(node.system)
        if update and update.stage is UpdateStage.switched and update.target == node.other:
            switch.withdraw_switch(node, update)
            return
        check_other_slot(node, update)
        back = plan_rollback(node)
        node.progress.report_event(
            "plan", f"going back to {back.title}", version=back.after.get("version"), slot=back.target
        )
        if text := describe_data(node, back):
            node.progress.report_event("cluster", text)
        if update and update.target == boot.slot:  # it is over once the other slot runs
            back = replace(back, facts={pending.GIVEN_UP: asdict(update)})
        switch.switch_slot(node, back, reboot=reboot)


def check_other_slot(node: UpdateContext, update: PendingUpdate | None) -> None:
    """Whether the other slot has what was good once. Raises `Problem`."""
    other, boot = node.other, node.read_boot()
    if boot.entry is None:
        raise Problem("the slots' boot entries can't be read", where="/efi", hint="is /efi mounted?")
    if update and update.target == other and update.kind is UpdateKind.update:
        written = "was being written" if update.stage is UpdateStage.writing else "never ran"
        hint = "`edge-agent update switch` tries it" if update.stage is UpdateStage.installed else LIKE_INSTALL
        raise Problem(f"slot {other} holds {update.after.get('version') or 'an image'}, which {written}", hint=hint)
    entry = next((entry for entry in boot.others if entry.slot == other), None)
    if entry is None:
        raise Problem(f"slot {other} has no image that could be started", hint=LIKE_INSTALL)
    if entry.state == "bad":
        raise Problem(f"slot {other} is marked as bad: it failed, or was being overwritten", hint=LIKE_INSTALL)
    if entry.state == "trial":
        raise Problem(f"slot {other} was never found good; it has tries left", hint="reboot to have it tried")


def plan_rollback(node: UpdateContext) -> PendingUpdate:
    """What to go back to, as far as is known from the last boot there."""
    known = boot_records.last_boot_of(node.system, node.other) or {}
    after = {name: known[name] for name in ("version", "kubernetes") if known.get(name)}
    return PendingUpdate(
        str(uuid.uuid4()),
        UpdateKind.rollback,
        UpdateStage.installed,
        node.slot,
        node.other,
        node.image,
        after,
        since=records.current_time(),
    )


def describe_data(node: UpdateContext, back: PendingUpdate) -> str | None:
    """What will happen to the cluster's data, for people; None without a cluster."""
    if node.cluster is None:
        return None
    try:
        cost = node.cluster.rollback_loss(node.system, back.after.get("kubernetes"))
    except Exception as error:
        return f"what becomes of the cluster's data is not known: {error}"
    if cost is None:
        return "the cluster's data stays as it is"
    if "snapshot" not in cost:
        return f"the cluster's data stays as it is: {cost.get('problem')}"
    counts = ", ".join(f"{count} {kind}" for kind, count in (cost.get("counts") or {}).items() if count)
    lost = counts or cost.get("problem") or "nothing"
    return f"the cluster's data goes back to the snapshot of {cost.get('taken')}; lost with it: {lost}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-reboot", action="store_true", help="switch, but leave the reboot to you")


def main(options: argparse.Namespace) -> int:
    need_root()
    handle_signals()
    roll_back(this_device(), reboot=not options.no_reboot)
    return 0
