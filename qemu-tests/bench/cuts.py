"""The number of power cuts that the tests have tried, and the number that the device survived."""

import json
from pathlib import Path
from typing import Any

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.shared.errors import Error

LEDGER = "failure-matrix"
# Entry of the ledger -> what was interrupted.
CUTS = {
    "power-random": "of an update",
    "power-cluster-forth": "of a cluster's switch to the next Kubernetes",
    "power-cluster-back": "of its rollback",
}
STATES = "flush-states"
MEANING = (
    "Not measured here, but read from the records of the last runs of the failure matrix: machines that were killed at "
    "random moments of an update, and the disk states that a power cut at each flush of an update could have left."
)
RUN = "run `make test-all`, or `pytest qemu-tests/test_update_power*.py --cuts N`"


def measure(site: BenchSite) -> Measured:
    """Read the ledger. Raises `Error` if an entry is damaged."""
    folder = site.results / LEDGER
    figures: list[Figure] = []
    notes: list[str] = []
    ledger: dict[str, Any] = {}
    for name, label in CUTS.items():
        if cuts := read_ledger_entry(folder, name):
            cut_count, survived = entry_figure(cuts, "cuts"), entry_figure(cuts, "survived")
            figures += [
                Figure(f"cuts_{name}", f"power cuts at moments by chance, {label}", cut_count, ""),
                Figure(f"cuts_{name}_lost", "  not survived", count_lost(cuts, cut_count - survived), "", 0),
            ]
        notes.append(cut_note(f"power cuts, {label}", cuts))
        ledger[name] = cuts
    if states := read_ledger_entry(folder, STATES):
        figures += [
            Figure("states", "states of a disk after a cut, replayed and checked", entry_figure(states, "states"), ""),
            Figure("states_bad", "  bad", count_lost(states, entry_figure(states, "bad")), "", 0),
        ]
    notes.append(cut_note("replayed states", states))
    return Measured(figures, MEANING, {"ledger": {**ledger, STATES: states}}, notes)


def cut_note(name: str, entry: dict[str, Any] | None) -> str:
    """Return a note with the date and the result of the tests."""
    if not entry:
        return f"{name}: the tests have not run here; {RUN}"
    if not entry["held"]:
        return f"{name}: the test of {entry['date']} FAILED, and the figures are of what came before that"
    return f"{name}: {entry['date']}"


def read_ledger_entry(folder: Path, name: str) -> dict[str, Any] | None:
    """Read an entry of the ledger; None if its test has never run. Raises `Error` if the entry is damaged."""
    path = folder / f"{name}.json"
    try:
        entry: dict[str, Any] = json.loads(path.read_text())
        _ = entry["figures"], entry["held"], entry["date"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Error(f"the ledger's entry is damaged: {error!r}", where=str(path), hint=RUN) from error
    return entry


def entry_figure(entry: dict[str, Any], name: str) -> int:
    """Return a figure of an entry; 0 if the test ended before it recorded the figure."""
    return int(entry["figures"].get(name, 0))


def count_lost(entry: dict[str, Any], number: int) -> int:
    """Return how many cuts were not survived: at least one if the test failed, whatever it has recorded."""
    return max(number, 0 if entry["held"] else 1)
