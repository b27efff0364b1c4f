"""The last boots of this node: which slot, which version, and how each ended as far as that is known."""

from osbuild.agent import state_files
from osbuild.agent.boot.loader import Boot
from osbuild.agent.system import System
from osbuild.agent.update import records

FILE = "boots.jsonl"
COUNT, SIZE = 50, 64 * 1024
TYPES = {
    **dict.fromkeys(("boot", "time", "slot", "version", "kubernetes", "end"), str),
    **dict.fromkeys(("left", "done"), int), **dict.fromkeys(("healthy", "unpacks"), bool),
}  # fmt: skip
ENDED = "ended"  # the unit of `update boot` copies the boot's id there when the system goes down in order


def record_boot(system: System, boot: Boot) -> None:
    """Add this boot, and how the one before it ended. Raises `OSError`."""
    this, image = records.read_boot_id(system), system.image()
    with records.state_lock(system):
        rows = read_boots(system)
        if rows and rows[-1].get("boot") == this:
            return
        if rows:
            orderly = state_files.read_text(system, f"{records.FOLDER}/{ENDED}") == rows[-1].get("boot")
            rows[-1]["end"] = "in order" if orderly else "cut off"
        row = {
            "boot": this, "time": records.current_time(), "slot": boot.slot, "version": image.get("version"),
            "kubernetes": running_kubernetes(system), "left": boot.entry.left if boot.entry else None,
            "done": boot.entry.done if boot.entry else None, "healthy": None, "end": None,
            "unpacks": False,  # its K3s, to the data partition; images whose K3s does so do not write this
        }  # fmt: skip
        records.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def record_verdict(system: System, healthy: bool) -> None:
    """Write down what the health checks found of this boot. Raises `OSError`."""
    with records.state_lock(system):
        rows = read_boots(system)
        for row in rows:
            if row.get("boot") == records.read_boot_id(system):
                row["healthy"] = healthy
        records.save_rows(system, FILE, rows, count=COUNT, size=SIZE)


def read_boots(system: System) -> list[records.Row]:
    """All of them, the oldest first."""
    return records.read_rows(system, FILE, TYPES)


def last_boot_of(system: System, slot: str) -> records.Row | None:
    """The last boot of a slot."""
    return next((row for row in reversed(read_boots(system)) if row.get("slot") == slot), None)


def running_kubernetes(system: System) -> str:
    """The Kubernetes of the running image as bundles have it, such as `upstream v1.36.3`; empty where it has none."""
    found = system.image().get("kubernetes")
    if not isinstance(found, dict) or not found.get("distribution"):
        return ""
    return f"{found['distribution']} {found.get('version', '')}".strip()
