"""What has become of an update, read from what is written of it and from the boot loader's entries."""

from osbuild.agent.boot import Boot
from osbuild.agent.update import boots, hints, pending, verdict
from osbuild.agent.update.node import Node
from osbuild.agent.update.pending import Pending
from osbuild.agent.update.state import boot_id

TRIAL = "trial"  # its slot runs: the verdict comes with the commit
INTERRUPTED = "interrupted"  # while the slot was written: nothing was switched, the slot may be half written
UNSWITCHED = "unswitched"  # the slot is whole; the boot loader was not told, or has been told otherwise
WAITING = "waiting"  # the next boot tries it
ROLLED_BACK = "rolled back"  # it was tried, and the other slot runs again
UNKNOWN = "unknown"  # the entries can't be read
PASSED_OVER = "the boot loader passed it over: its boot file is damaged, or somebody chose the other slot"


def outcome(found: Pending, boot: Boot, primary: str | None) -> str:
    """One of the above. `primary` is the slot that the boot loader takes next, None where that can't be read."""
    if found.stage == pending.WRITING:
        return INTERRUPTED
    if boot.slot == found.target:
        return TRIAL
    if primary is None:
        return UNKNOWN
    if found.verdict:
        return ROLLED_BACK
    entry = next((other for other in boot.others if other.slot == found.target), None)
    if entry is None:
        return UNSWITCHED
    if entry.left is not None and entry.done:
        return ROLLED_BACK  # with tries left too: it would be tried again, and has had its turn
    # A slot that was good before comes next without a switch, too, where the one that runs has no try left.
    told = entry.left is not None or boot.entry is None or boot.entry.left != 0
    return WAITING if primary == found.target and told else UNSWITCHED


def passed_over(found: Pending, now: str) -> bool:
    """Whether one that is `WAITING` has been waited for: it was to come next in an earlier boot than `now`.

    A boot file that can't be read, or is not listed, costs no try, and would come next for ever.
    """
    return found.stage == pending.SWITCHED and bool(found.boot and now) and found.boot != now


def why(node: Node, found: Pending) -> str:
    """Why an update was rolled back, as far as that is known."""
    said = verdict.read(node.system)
    version = found.after.get("version")
    if said.get("slot") == found.target and said.get("version") == version and after(node, found, said.get("boot")):
        return f"health checks failed: {verdict.reasons(said) or 'they did not say which'}"
    seen = hints.hints(node.system, found.since)
    tail = f" ({'; '.join(seen)})" if seen else ""
    if after(node, found, (boots.of_slot(node.system, found.target) or {}).get("boot")):
        return f"no verdict: it hung, panicked or lost power before its health checks were over{tail}"
    return f"it never came as far as this agent: its boot file, kernel or root failed, or its agent does not run{tail}"


def after(node: Node, found: Pending, boot: object) -> bool:
    """Whether a boot was one of this update's slot since it was switched to: they follow the last one of the origin."""
    for row in reversed(boots.read(node.system)):
        if row.get("slot") == found.target and row.get("boot") == boot:
            return True
        if row.get("slot") == found.origin and row.get("boot") != boot_id(node.system):
            return False
    return False
