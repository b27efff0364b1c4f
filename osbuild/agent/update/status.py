"""`edge-agent update status` and `history`."""

from typing import Any

from osbuild.agent.update import history, minimum_version, outcome, pending
from osbuild.agent.update.context import UpdateContext, is_busy
from osbuild.agent.update.outcome import UpdateOutcome
from osbuild.agent.update.pending import UpdateStage


def update_status(node: UpdateContext) -> dict[str, Any]:
    """What is under way, what came of the last update, and the lowest version that may be installed."""
    system, update = node.system, pending.load_pending(node.system)
    boot = node.read_boot()
    under_way = None
    if update:
        under_way = {
            "id": update.id, "kind": update.kind, "stage": update.stage, "slot": update.target, "before": update.before,
            "after": update.after, "source": update.source, "since": update.since,
            "busy": is_busy(system),
            "outlook": describe_outlook(outcome.find_outcome(update, boot, node.boot_loader.next_slot(system)),
            update.stage, is_busy(system)),
        }  # fmt: skip
    return {
        "version": system.image().get("version"),
        "slot": boot.slot,
        "why": boot.explain(),
        "next": node.boot_loader.next_slot(system),
        "slots": {
            entry.slot: {"state": entry.state, "left": entry.left, "done": entry.done}
            for entry in sorted([*([boot.entry] if boot.entry else []), *boot.others], key=lambda entry: entry.slot)
        },
        "floor": minimum_version.read_minimum(system),
        "pending": under_way,
        "last": history.last_event(system),
    }


OUTLOOK = {
    (UpdateOutcome.interrupted, UpdateStage.writing): "was being written when its installation ended: install it again",
    (UpdateOutcome.trial, UpdateStage.switched): "is on trial: it runs now",
    (UpdateOutcome.waiting, UpdateStage.switched): "is to be booted next: reboot to try it, or `edge-agent rollback`",
    (UpdateOutcome.unswitched, UpdateStage.installed): "is installed and not switched to: `edge-agent update switch`",
    (UpdateOutcome.rolled_back, UpdateStage.switched): "was tried and given up",
}


def describe_outlook(what: UpdateOutcome, stage: UpdateStage, busy: bool) -> str:
    """What comes next, for people."""
    if busy and what is not UpdateOutcome.trial:  # it is being finished, or gone back from
        return "is being written" if stage is UpdateStage.writing else "is being switched to"
    return OUTLOOK.get((what, stage), what)


def status_lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    rows = [("running", f"{found['version'] or '?'} in slot {found['slot']}: {found['why']}")]
    rows.append(("next boot", f"slot {found['next'] or '?'}"))
    for slot, entry in found["slots"].items():
        tries = "" if entry["left"] is None else f", {entry['left']} left, {entry['done']} done"
        rows.append((f"slot {slot}", f"{entry['state']}{tries}"))
    rows.append(("floor", found["floor"] or "none yet"))
    if under_way := found["pending"]:
        rows.append((under_way["kind"], f"{under_way['after'].get('version') or '?'} {under_way['outlook']}"))
    else:
        rows.append(("update", "none is under way"))
    if found["last"]:
        rows.append(("last", history.event_line(found["last"])))
    width = max(len(label) for label, _ in rows)
    return [f"{label:{width}}  {text}" for label, text in rows]
