"""The last boots of this node: which slot, which version, and how each ended as far as that is known."""

from osbuild.agent import kept
from osbuild.agent.boot import Boot
from osbuild.agent.system import System
from osbuild.agent.update import state

FILE = "boots.jsonl"
COUNT, SIZE = 50, 64 * 1024
TYPES = {
    **dict.fromkeys(("boot", "time", "slot", "version", "kubernetes", "end"), str),
    **dict.fromkeys(("left", "done"), int), **dict.fromkeys(("healthy", "unpacks"), bool),
}  # fmt: skip
ENDED = "ended"  # the unit of `update boot` copies the boot's id there when the system goes down in order


def note(system: System, boot: Boot) -> None:
    """Add this boot, and how the one before it ended. Raises `OSError`."""
    this, image = state.boot_id(system), system.image()
    with state.locked(system):
        rows = read(system)
        if rows and rows[-1].get("boot") == this:
            return
        if rows:
            orderly = kept.text(system, f"{state.FOLDER}/{ENDED}") == rows[-1].get("boot")
            rows[-1]["end"] = "in order" if orderly else "cut off"
        row = {
            "boot": this, "time": state.now(), "slot": boot.slot, "version": image.get("version"),
            "kubernetes": kubernetes(system), "left": boot.entry.left if boot.entry else None,
            "done": boot.entry.done if boot.entry else None, "healthy": None, "end": None,
            "unpacks": False,  # its K3s, to the data partition; images whose K3s does so do not write this
        }  # fmt: skip
        state.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def judged(system: System, healthy: bool) -> None:
    """Write down what the health checks found of this boot. Raises `OSError`."""
    with state.locked(system):
        rows = read(system)
        for row in rows:
            if row.get("boot") == state.boot_id(system):
                row["healthy"] = healthy
        state.save_rows(system, FILE, rows, count=COUNT, size=SIZE)


def read(system: System) -> list[state.Row]:
    """All of them, the oldest first."""
    return state.rows(system, FILE, TYPES)


def of_slot(system: System, slot: str) -> state.Row | None:
    """The last boot of a slot."""
    return next((row for row in reversed(read(system)) if row.get("slot") == slot), None)


def kubernetes(system: System) -> str:
    """The Kubernetes of the running image as bundles have it, such as `upstream v1.36.3`; empty where it has none."""
    found = system.image().get("kubernetes")
    if not isinstance(found, dict) or not found.get("distribution"):
        return ""
    return f"{found['distribution']} {found.get('version', '')}".strip()
