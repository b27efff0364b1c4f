"""How many power cuts the tests have tried, and how many of them a device has survived."""

import json
from pathlib import Path
from typing import Any

from osbuild.bench.figure import Figure, Measured
from osbuild.bench.site import BenchSite
from osbuild.shared.errors import Error

LEDGER = "failure-matrix"
# Entries of it, and what they are about.
CUTS = {
    "power-random": "of an update",
    "power-cluster-forth": "of a cluster's switch to the next Kubernetes",
    "power-cluster-back": "of its rollback",
}
STATES = "flush-states"
MEANING = (
    "Not measured here, but read from what the last runs of the failure matrix have written down: machines killed at "
    "moments by chance during an update, and what a cut at any flush of a whole update could have left of the disk."
)
RUN = "run `make test-all`, or `pytest qemu-tests/test_update_power*.py --cuts N`"


def measure(site: BenchSite) -> Measured:
    """Read the ledger. Raises `Error` where an entry is damaged."""
    folder = site.results / LEDGER
    figures: list[Figure] = []
    notes: list[str] = []
    ledger: dict[str, Any] = {}
    for name, label in CUTS.items():
        if cuts := read_ledger_entry(folder, name):
            tried, survived = entry_figure(cuts, "cuts"), entry_figure(cuts, "survived")
            figures += [
                Figure(f"cuts_{name}", f"power cuts at moments by chance, {label}", tried, ""),
                Figure(f"cuts_{name}_lost", "  not survived", count_lost(cuts, tried - survived), "", 0),
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


def cut_note(name: str, found: dict[str, Any] | None) -> str:
    """When the tests have run, and how it ended."""
    if not found:
        return f"{name}: the tests have not run here; {RUN}"
    if not found["held"]:
        return f"{name}: the test of {found['date']} FAILED, and the figures are of what came before that"
    return f"{name}: {found['date']}"


def read_ledger_entry(folder: Path, name: str) -> dict[str, Any] | None:
    """An entry of the ledger, None where that test has never run."""
    path = folder / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = found["figures"], found["held"], found["date"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Error(f"the ledger's entry is damaged: {error!r}", where=str(path), hint=RUN) from error
    return found


def entry_figure(found: dict[str, Any], name: str) -> int:
    """A figure of an entry; 0 where the test ended before it was written."""
    return int(found["figures"].get(name, 0))


def count_lost(found: dict[str, Any], number: int) -> int:
    """What was not survived: a test that has not held has lost one at least, whatever it came to write down."""
    return max(number, 0 if found["held"] else 1)
