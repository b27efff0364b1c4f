"""`edge-agent update status` and `history`."""

from typing import Any

from osbuild.agent.update import history, minimum_version, pending, update_state
from osbuild.agent.update.context import UpdateContext, is_busy
from osbuild.agent.update.pending import UpdateStage
from osbuild.agent.update.update_state import UpdateState


def update_status(context: UpdateContext) -> dict[str, Any]:
    """The JSON of `edge-agent update status`: slots, pending update, last event and minimum version."""
    system, update = context.system, pending.load_pending(context.system)
    boot = context.read_boot()
    pending_update = None
    if update:
        pending_update = {
            "id": update.id, "kind": update.kind, "stage": update.stage, "slot": update.target, "before": update.before,
            "after": update.after, "source": update.source, "since": update.since,
            "busy": is_busy(system),
            "outlook": describe_outlook(update_state.find_state(update, boot, context.boot_loader.next_slot(system)),
            update.stage, is_busy(system)),
        }  # fmt: skip
    return {
        "version": system.image().version,
        "slot": boot.slot,
        "why": boot.explain(),
        "next": context.boot_loader.next_slot(system),
        "slots": {
            entry.slot: {"state": entry.state, "left": entry.left, "done": entry.done}
            for entry in sorted([*([boot.entry] if boot.entry else []), *boot.others], key=lambda entry: entry.slot)
        },
        "floor": minimum_version.read_minimum(system),
        "pending": pending_update,
        "last": history.last_event(system),
    }


OUTLOOK = {
    (UpdateState.interrupted, UpdateStage.writing): "was interrupted while its slot was written; install it again",
    (UpdateState.trial, UpdateStage.switched): "is on trial and running",
    (
        UpdateState.waiting,
        UpdateStage.switched,
    ): "is booted next; reboot to try it, or withdraw it: `edge-agent rollback`",
    (
        UpdateState.unswitched,
        UpdateStage.installed,
    ): "is installed but not switched to: run `edge-agent update switch`",
    (UpdateState.rolled_back, UpdateStage.switched): "was tried and rolled back",
}


def describe_outlook(state: UpdateState, stage: UpdateStage, busy: bool) -> str:
    """The state of the pending update and the next step, as text."""
    if busy and state is not UpdateState.trial:  # during a trial, a commit or rollback is running
        return "is being written" if stage is UpdateStage.writing else "is being switched to"
    return OUTLOOK.get((state, stage), state)


def status_lines(status: dict[str, Any]) -> list[str]:
    """The status as a table of text."""
    rows = [("running", f"{status['version'] or '?'} in slot {status['slot']}"), ("why", status["why"])]
    rows.append(("next boot", f"slot {status['next'] or '?'}"))
    for slot, entry in status["slots"].items():
        tries = "" if entry["left"] is None else f", {entry['left']} left, {entry['done']} used"
        rows.append((f"slot {slot}", f"{entry['state']}{tries}"))
    rows.append(("minimum version", status["floor"] or "none yet"))
    if pending_update := status["pending"]:
        rows.append(
            (pending_update["kind"], f"{pending_update['after'].get('version') or '?'} {pending_update['outlook']}")
        )
    else:
        rows.append(("update", "none is pending"))
    if status["last"]:
        rows.append(("last event", history.event_line(status["last"])))
    width = max(len(label) for label, _ in rows)
    return [f"{label:{width}}  {text}" for label, text in rows]
