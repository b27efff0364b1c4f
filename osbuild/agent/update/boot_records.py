"""Records of the last boots: slot, version, verdict, and how each boot ended."""

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
ENDED = "ended"  # edge-update-boot.service writes the boot id to this file at an orderly shutdown


def record_boot(system: System, boot: Boot) -> None:
    """Record this boot, and how the previous one ended. Raises `OSError`."""
    boot_id, image = records.read_boot_id(system), system.image()
    with records.state_lock(system):
        rows = read_boots(system)
        if rows and rows[-1].get("boot") == boot_id:
            return
        if rows:
            orderly = state_files.read_text(system, f"{records.FOLDER}/{ENDED}") == rows[-1].get("boot")
            rows[-1]["end"] = "in order" if orderly else "cut off"
        row = {
            "boot": boot_id, "time": records.current_time(), "slot": boot.slot, "version": image.version,
            "kubernetes": running_kubernetes(system), "left": boot.entry.left if boot.entry else None,
            "done": boot.entry.done if boot.entry else None, "healthy": None, "end": None,
            "unpacks": False,  # whether K3s unpacks itself to the data partition; older images omit this
        }  # fmt: skip
        records.save_rows(system, FILE, [*rows, row], count=COUNT, size=SIZE)


def record_verdict(system: System, healthy: bool) -> None:
    """Record the verdict on this boot. Raises `OSError`."""
    with records.state_lock(system):
        rows = read_boots(system)
        for row in rows:
            if row.get("boot") == records.read_boot_id(system):
                row["healthy"] = healthy
        records.save_rows(system, FILE, rows, count=COUNT, size=SIZE)


def read_boots(system: System) -> list[records.Row]:
    """The recorded boots, the oldest first."""
    return records.read_rows(system, FILE, TYPES)


def last_boot_of(system: System, slot: str) -> records.Row | None:
    """The last recorded boot of a slot; None if there is none."""
    return next((row for row in reversed(read_boots(system)) if row.get("slot") == slot), None)


def running_kubernetes(system: System) -> str:
    """Distribution and version of the running image, such as `upstream v1.36.3`; empty without Kubernetes."""
    kubernetes = system.image().kubernetes
    return f"{kubernetes.distribution} {kubernetes.version or ''}".strip() if kubernetes.distribution else ""
