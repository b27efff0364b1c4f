"""How an update of the server has ended, from the history of the device."""

from pathlib import Path

import pytest

from osbuild.agent.fleet.outcome import (
    UpdateOutcome,
    find_outcome,
    is_switched,
    load_outcome,
    order_reference,
    store_outcome,
)
from osbuild.agent.system import System
from osbuild.agent.update import boot_records, history, kernel_journal, records
from osbuild.agent.update.history import UpdateEvent
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage


def append(system: System, event: UpdateEvent, order: str = "7", identity: str = "one", **details: str) -> None:
    reference = order_reference(order) if order else ""
    update = PendingUpdate(
        identity, UpdateKind.update, UpdateStage.writing, "a", "b", {"version": "1.0.0"}, {"version": "2.0.0"},
        reference=reference,
    )  # fmt: skip
    history.append_event(system, event, update, **details)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (UpdateEvent.installed, None),
        (UpdateEvent.switched, None),
        (UpdateEvent.interrupted, None),
        (UpdateEvent.committed, UpdateOutcome("7", True, ("2.0.0 is committed",))),
        (UpdateEvent.failed, UpdateOutcome("7", False, ("failed: no reason is recorded",))),
        (UpdateEvent.rolled_back, UpdateOutcome("7", False, ("rolled-back: no reason is recorded",))),
    ],
)
def test_only_a_commit_is_a_success_and_a_power_cut_is_no_end(
    tmp_path: Path, event: UpdateEvent, expected: UpdateOutcome | None
) -> None:
    system = System(tmp_path)
    append(system, UpdateEvent.started)
    append(system, event)
    assert find_outcome(system, "7") == expected
    assert find_outcome(system, "70") is None
    assert is_switched(system, "7") == (event in (UpdateEvent.switched, UpdateEvent.committed))


def test_a_fallback_that_an_older_agent_has_recorded_counts(tmp_path: Path) -> None:
    system = System(tmp_path)
    append(system, UpdateEvent.started)
    append(system, UpdateEvent.rolled_back, order="", why="the slot had no tries left")
    assert find_outcome(system, "7") == UpdateOutcome("7", False, ("rolled-back: the slot had no tries left",))


def test_the_last_of_several_updates_for_an_order_counts(tmp_path: Path) -> None:
    system = System(tmp_path)
    append(system, UpdateEvent.started)
    append(system, UpdateEvent.interrupted)
    append(system, UpdateEvent.started, identity="two")
    assert find_outcome(system, "7") is None
    append(system, UpdateEvent.committed, identity="two")
    found = find_outcome(system, "7")
    assert found is not None and found.success


def test_the_unprivileged_part_reads_what_root_has_stored(tmp_path: Path) -> None:
    system, outcome = System(tmp_path), UpdateOutcome("7", False, ("one", "two"))
    assert load_outcome(system, "7") is None
    store_outcome(system, outcome)
    assert load_outcome(system, "7") == outcome
    assert load_outcome(system, "8") is None


@pytest.mark.parametrize(("version", "expected"), [("2.0.0", ("kernel: I/O error, dev vda",)), ("1.0.0", ())])
def test_a_failure_has_the_last_warnings_of_the_kernel_if_the_new_version_has_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, expected: tuple[str, ...]
) -> None:
    system, boot = System(tmp_path), "01234567-89ab-cdef-0123-456789abcdef"
    records.save_rows(system, boot_records.FILE, [{"boot": boot, "slot": "b", "version": version}], count=9, size=9999)
    append(system, UpdateEvent.started)
    append(system, UpdateEvent.rolled_back, why="health checks failed")
    journal = {boot: ["I/O error, dev vda"]}
    monkeypatch.setattr(kernel_journal, "last_warnings", lambda boot: journal[boot])
    found = find_outcome(system, "7")
    assert found == UpdateOutcome("7", False, ("rolled-back: health checks failed", *expected))


@pytest.mark.parametrize("boot", ["", "None", "--all", "01234567-89ab-cdef-0123-456789abcdef"])
def test_a_boot_that_the_journal_does_not_know_has_no_warnings(boot: str) -> None:
    assert kernel_journal.last_warnings(boot) == []
