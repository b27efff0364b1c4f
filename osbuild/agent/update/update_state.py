"""The state of an update, derived from its record and the boot entries."""

from enum import StrEnum

from osbuild.agent.boot.loader import Boot
from osbuild.agent.update import boot_records, crash_evidence, health_verdict
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.pending import PendingUpdate, UpdateStage
from osbuild.agent.update.records import read_boot_id

SKIPPED = "the boot loader skipped the slot: its boot image is damaged, or somebody chose the other slot"


class UpdateState(StrEnum):
    """The state of an update."""

    trial = "trial"  # its slot is running; the commit will end the trial
    interrupted = "interrupted"  # interrupted while the slot was written; nothing was switched
    unswitched = "unswitched"  # the slot is complete, but the boot loader was not switched, or was switched back
    waiting = "waiting"  # the next boot tries it
    rolled_back = "rolled back"  # it was tried, and the other slot is running again
    unknown = "unknown"  # the boot entries cannot be read


def find_state(update: PendingUpdate, boot: Boot, next_slot: str | None) -> UpdateState:
    """The state of `update`. `next_slot` is the slot that is booted next; None if that cannot be read."""
    if update.stage is UpdateStage.writing:
        return UpdateState.interrupted
    if boot.slot == update.target:
        return UpdateState.trial
    if next_slot is None:
        return UpdateState.unknown
    if update.verdict:
        return UpdateState.rolled_back
    entry = next((other for other in boot.others if other.slot == update.target), None)
    if entry is None:
        return UpdateState.unswitched
    if entry.left is not None and entry.done:
        return UpdateState.rolled_back  # even with tries left, because the slot has failed once
    # A slot that was good before is next even without a switch, if the running slot has no try left.
    switched = entry.left is not None or boot.entry is None or boot.entry.left != 0
    return UpdateState.waiting if next_slot == update.target and switched else UpdateState.unswitched


def was_skipped(update: PendingUpdate, boot_id: str) -> bool:
    """Whether an update in state `waiting` was switched to in an earlier boot than `boot_id`."""
    # The boot loader skips a damaged boot image without using a try, so the update would stay `waiting` forever.
    return update.stage is UpdateStage.switched and bool(update.boot and boot_id) and update.boot != boot_id


def explain_rollback(context: UpdateContext, update: PendingUpdate) -> str:
    """Why an update was rolled back, as far as that is known."""
    verdict = health_verdict.read_failed(context.system)
    version = update.after.get("version")
    if (
        verdict.get("slot") == update.target
        and verdict.get("version") == version
        and booted_since_switch(context, update, verdict.get("boot"))
    ):
        return f"health checks failed: {health_verdict.failure_reasons(verdict) or 'the failed checks are unknown'}"
    traces = crash_evidence.crash_hints(context.system, update.since)
    evidence = f" ({'; '.join(traces)})" if traces else ""
    if booted_since_switch(
        context, update, (boot_records.last_boot_of(context.system, update.target) or {}).get("boot")
    ):
        return f"no verdict: the device hung, panicked or lost power before the health checks ended{evidence}"
    failed = "the slot's boot image, kernel or root file system failed, or the agent does not run"
    return f"the boot did not reach the edge agent: {failed}{evidence}"


def booted_since_switch(context: UpdateContext, update: PendingUpdate, boot: object) -> bool:
    """Whether `boot` (a boot id) is a boot of the update's slot after the switch.

    Such boots follow the last boot of the origin.
    """
    for row in reversed(boot_records.read_boots(context.system)):
        if row.get("slot") == update.target and row.get("boot") == boot:
            return True
        if row.get("slot") == update.origin and row.get("boot") != read_boot_id(context.system):
            return False
    return False
