"""What has become of an update, read from what is written of it and from the boot loader's entries."""

from enum import StrEnum

from osbuild.agent.boot.loader import Boot
from osbuild.agent.update import boot_records, crash_evidence, health_verdict
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.pending import PendingUpdate, UpdateStage
from osbuild.agent.update.records import read_boot_id

SKIPPED = "the boot loader passed it over: its boot file is damaged, or somebody chose the other slot"


class UpdateOutcome(StrEnum):
    """What has become of an update."""

    trial = "trial"  # its slot runs: the verdict comes with the commit
    interrupted = "interrupted"  # while the slot was written: nothing was switched, the slot may be half written
    unswitched = "unswitched"  # the slot is whole; the boot loader was not told, or has been told otherwise
    waiting = "waiting"  # the next boot tries it
    rolled_back = "rolled back"  # it was tried, and the other slot runs again
    unknown = "unknown"  # the entries can't be read


def find_outcome(update: PendingUpdate, boot: Boot, primary: str | None) -> UpdateOutcome:
    """What has become of `update`. `primary` is the slot that the boot loader takes next, None if it is not known."""
    if update.stage is UpdateStage.writing:
        return UpdateOutcome.interrupted
    if boot.slot == update.target:
        return UpdateOutcome.trial
    if primary is None:
        return UpdateOutcome.unknown
    if update.verdict:
        return UpdateOutcome.rolled_back
    entry = next((other for other in boot.others if other.slot == update.target), None)
    if entry is None:
        return UpdateOutcome.unswitched
    if entry.left is not None and entry.done:
        return UpdateOutcome.rolled_back  # with tries left too: it would be tried again, and has had its turn
    # A slot that was good before comes next without a switch, too, where the one that runs has no try left.
    told = entry.left is not None or boot.entry is None or boot.entry.left != 0
    return UpdateOutcome.waiting if primary == update.target and told else UpdateOutcome.unswitched


def was_skipped(update: PendingUpdate, now: str) -> bool:
    """Whether an update that is `waiting` has been waited for: it was to come next in an earlier boot than `now`.

    A boot file that can't be read, or is not listed, costs no try, and would come next for ever.
    """
    return update.stage is UpdateStage.switched and bool(update.boot and now) and update.boot != now


def explain_rollback(node: UpdateContext, update: PendingUpdate) -> str:
    """Why an update was rolled back, as far as that is known."""
    said = health_verdict.read_failed(node.system)
    version = update.after.get("version")
    if (
        said.get("slot") == update.target
        and said.get("version") == version
        and booted_since_switch(node, update, said.get("boot"))
    ):
        return f"health checks failed: {health_verdict.failure_reasons(said) or 'they did not say which'}"
    seen = crash_evidence.crash_hints(node.system, update.since)
    tail = f" ({'; '.join(seen)})" if seen else ""
    if booted_since_switch(node, update, (boot_records.last_boot_of(node.system, update.target) or {}).get("boot")):
        return f"no verdict: it hung, panicked or lost power before its health checks were over{tail}"
    return f"it never came as far as this agent: its boot file, kernel or root failed, or its agent does not run{tail}"


def booted_since_switch(node: UpdateContext, update: PendingUpdate, boot: object) -> bool:
    """Whether a boot was one of this update's slot since it was switched to: they follow the last one of the origin."""
    for row in reversed(boot_records.read_boots(node.system)):
        if row.get("slot") == update.target and row.get("boot") == boot:
            return True
        if row.get("slot") == update.origin and row.get("boot") != read_boot_id(node.system):
            return False
    return False
