"""`edge-agent update status` and `history`."""

from typing import Any

from osbuild.agent.update import floor, history, outcome, pending
from osbuild.agent.update.node import Node, busy


def status(node: Node) -> dict[str, Any]:
    """What is under way, what came of the last update, and the lowest version that may be installed."""
    system, found = node.system, pending.load(node.system)
    boot = node.boot()
    under_way = None
    if found:
        under_way = {
            "id": found.id, "kind": found.kind, "stage": found.stage, "slot": found.target, "before": found.before,
            "after": found.after, "source": found.source, "since": found.since,
            "busy": busy(system),
            "outlook": outlook(outcome.outcome(found, boot, node.flow.primary(system)), found.stage, busy(system)),
        }  # fmt: skip
    return {
        "version": system.image().get("version"),
        "slot": boot.slot,
        "why": boot.why(),
        "next": node.flow.primary(system),
        "slots": {
            entry.slot: {"state": entry.state, "left": entry.left, "done": entry.done}
            for entry in sorted([*([boot.entry] if boot.entry else []), *boot.others], key=lambda entry: entry.slot)
        },
        "floor": floor.read(system),
        "pending": under_way,
        "last": history.last(system),
    }


OUTLOOK = {
    (outcome.INTERRUPTED, pending.WRITING): "was being written when its installation ended: install it again",
    (outcome.TRIAL, pending.SWITCHED): "is on trial: it runs now",
    (outcome.WAITING, pending.SWITCHED): "is to be booted next: reboot to try it, or `edge-agent rollback`",
    (outcome.UNSWITCHED, pending.INSTALLED): "is installed and not switched to: `edge-agent update switch`",
    (outcome.ROLLED_BACK, pending.SWITCHED): "was tried and given up",
}


def outlook(what: str, stage: str, busy: bool) -> str:
    """What comes next, for people."""
    if busy and what != outcome.TRIAL:  # it is being finished, or gone back from
        return "is being written" if stage == pending.WRITING else "is being switched to"
    return OUTLOOK.get((what, stage), what)


def lines(found: dict[str, Any]) -> list[str]:
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
        rows.append(("last", history.line(found["last"])))
    width = max(len(label) for label, _ in rows)
    return [f"{label:{width}}  {text}" for label, text in rows]
