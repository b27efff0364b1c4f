"""What an update decides on a device: what is refused, what became of it, what is written down."""

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.boot.loader import Boot
from osbuild.agent.commands import explain, rollback
from osbuild.agent.errors import Problem
from osbuild.agent.health import CheckResult, Verdict
from osbuild.agent.update import (
    boot_records,
    crash_evidence,
    health_verdict,
    history,
    install,
    leftovers,
    minimum_version,
    outcome,
    pending,
    preconditions,
    records,
    status,
    switch,
)
from osbuild.agent.update.after_boot import handle_boot
from osbuild.agent.update.commit import commit_update
from osbuild.agent.update.context import update_lock
from osbuild.agent.update.failure import CORRUPT, NO_TIME, Failure, Reason
from osbuild.agent.update.outcome import UpdateOutcome
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import Progress
from osbuild.agent.update.rauc import BundleManifest
from osbuild.config.profile import UpdateSettings
from osbuild.shared.boot_entry import BootEntry
from osbuild.shared.image_versions import is_older
from tests.support.devices import Device

COMPATIBLE = "edge-osbuild-tiny-test"
SICK = Verdict(
    False, True, 600.0, (CheckResult("10-systemd", True, "", 0.1), CheckResult("50-node", False, "not\nReady", 1.0))
)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def manifest(version: str = "1.1.0", **meta: str) -> BundleManifest:
    images = {"root": 2**20, "verity": 2**14, "boot": 2**20}
    return BundleManifest(
        COMPATIBLE, version, "build", f"hash of {version}", images, {"architecture": "x86_64", **meta}
    )


def put(device: Device, version: str = "1.1.0", **changes: Any) -> PendingUpdate:
    """An update that is installed and not switched to."""
    found = install.plan_update(
        device.node, "/bundle.raucb", manifest(version), bool(changes.pop("downgrade", False)), None
    )
    return install.write_slot(device.node, found, device.write(version))


def update(device: Device, version: str = "1.1.0", **changes: Any) -> None:
    """An update to a good boot of it."""
    switch.switch_slot(device.node, put(device, version, **changes), reboot=True)
    device.reboot()
    assert handle_boot(device.node) == 0
    good(device)


def good(device: Device) -> None:
    device.loader.bless(device.system, device.slot)
    commit_update(device.node)


def events(device: Device) -> list[str]:
    return [row["event"] for row in history.read_history(device.system)]


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("1.2.3", "1.2.4", True),
        ("1.10.0", "1.9.9", False),
        ("1.2.0", "1.2.0", False),
        ("1.2", "1.2.1", True),
        ("1.0.0-rc.1", "1.0.0", True),
        ("1.0.0", "1.0.0-rc.1", False),
        ("1.0.0-2", "1.0.0-10", True),
        ("1.0.0-10", "1.0.0-rc", True),
        ("1.0.0-rc", "1.0.0-rc.1", True),
        ("1.0.0+build.7", "1.0.0", False),
        ("tuesday", "1.0.0", None),
    ],
)
def test_versions_are_compared_as_semver_org_says(version: str, than: str, expected: bool | None) -> None:
    assert is_older(version, than) is expected


def test_a_good_update_goes_from_slot_to_slot_and_raises_the_floor(device: Device) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    assert minimum_version.read_minimum(device.system) == "1.0.0"
    found = put(device)
    assert (found.stage, found.origin, found.target, found.after["version"]) == (
        UpdateStage.installed,
        "a",
        "b",
        "1.1.0",
    )
    assert device.loader.next_slot(device.system) == "a", "to write a slot switches nothing"
    switch.switch_slot(device.node, found, reboot=True)
    assert (device.restarts, device.loader.next_slot(device.system), device.cluster.cordoned) == (1, "b", True)
    assert device.reboot() == "b"
    handle_boot(device.node)
    assert status.update_status(device.node)["pending"]["outlook"] == "is on trial: it runs now"
    with pytest.raises(Problem, match="was not told that it is good"):
        commit_update(device.node)
    good(device)
    assert pending.load_pending(device.system) is None
    assert minimum_version.read_minimum(device.system) == "1.1.0"
    assert not device.cluster.cordoned
    assert events(device) == ["started", "installed", "switched", "committed"]
    assert history.read_history(device.system)[1]["facts"] == {"fetched": 4096}


def unpacked(device: Device) -> list[Path]:
    """The folders into which K3s of older images unpacked itself, as they left them."""
    folders = [device.root / name.lstrip("/") for name in leftovers.FOLDERS]
    for folder in folders:
        (folder / "0123/bin").mkdir(parents=True)
        (folder / "0123/bin/k3s").touch()
        (folder / "current").symlink_to("0123")
    return folders


def older_image(device: Device) -> None:
    """Have the last boot noted as an agent of such an image notes it."""
    rows = boot_records.read_boots(device.system)
    del rows[-1]["unpacks"]
    records.save_rows(device.system, boot_records.FILE, rows, count=boot_records.COUNT, size=boot_records.SIZE)


def test_what_k3s_of_older_images_unpacked_stays_while_a_slot_may_need_it(device: Device) -> None:
    folders = unpacked(device)
    handle_boot(device.node)
    older_image(device)
    commit_update(device.node)
    update(device)
    assert all(folder.is_dir() for folder in folders), "a rollback goes back to the image that needs it"
    rollback.roll_back(device.node, reboot=True)
    device.reboot()
    handle_boot(device.node)
    older_image(device)
    good(device)
    update(device, "1.2.0")
    found = put(device, "1.3.0")
    assert found.target == "a"
    commit_update(device.node)
    assert all(folder.is_dir() for folder in folders), "an update is under way"
    switch.switch_slot(device.node, found, reboot=True)
    device.reboot()
    handle_boot(device.node)
    good(device)
    assert not any(folder.exists() for folder in folders)
    assert not folders[1].parent.exists() and folders[1].parent.parent.is_dir(), "a link is made there at the next boot"
    assert folders[0].parent.is_dir()


def test_a_removal_that_a_power_cut_interrupted_is_finished(device: Device) -> None:
    folder = unpacked(device)[0]
    folder.rename(folder.with_name(leftovers.REMOVED))
    handle_boot(device.node)
    older_image(device)
    commit_update(device.node)
    assert not folder.with_name(leftovers.REMOVED).exists()


def test_nothing_is_removed_while_the_slots_entries_cannot_be_read(device: Device) -> None:
    folders = unpacked(device)
    handle_boot(device.node)
    device.loader.readable = False
    commit_update(device.node)
    assert all(folder.is_dir() for folder in folders)
    device.loader.readable = True
    (device.root / "var/lib/kubernetes/keep").touch()
    commit_update(device.node)
    assert [path.name for path in (device.root / "var/lib/kubernetes").iterdir()] == ["keep"]


def test_rauc_gets_the_floor_at_every_boot(device: Device) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    assert device.system.text("/run/rauc/system.conf").splitlines()[:2] == ["[system]", "min-bundle-version=1.0.0"]
    (device.root / "run/rauc/system.conf").unlink()
    handle_boot(device.node)
    assert "min-bundle-version=1.0.0\ncompatible=" in device.system.text("/run/rauc/system.conf")
    assert not minimum_version.write_rauc_config(device.system), "it is not written again without a change"


@pytest.mark.parametrize(
    ("stage", "mine", "primary", "expected"),
    [
        (UpdateStage.writing, None, "a", UpdateOutcome.interrupted),
        (UpdateStage.installed, None, "a", UpdateOutcome.unswitched),
        (UpdateStage.switched, None, "a", UpdateOutcome.unswitched),
        (UpdateStage.switched, (3, 0), "b", UpdateOutcome.waiting),
        (UpdateStage.switched, (2, 1), "b", UpdateOutcome.rolled_back),
        (UpdateStage.switched, (0, 3), "a", UpdateOutcome.rolled_back),
        (UpdateStage.installed, (0, 3), "a", UpdateOutcome.rolled_back),
        (UpdateStage.switched, (0, 0), "a", UpdateOutcome.unswitched),
        (UpdateStage.switched, (None, 0), "b", UpdateOutcome.waiting),
        (UpdateStage.switched, (None, 0), "a", UpdateOutcome.unswitched),
        (UpdateStage.switched, (0, 3), None, UpdateOutcome.unknown),
    ],
)
def test_what_became_of_an_update_is_read_from_its_stage_and_the_boot_entries(
    stage: UpdateStage, mine: tuple[int | None, int] | None, primary: str | None, expected: str
) -> None:
    others = (BootEntry("edge-b.efi", "b", *mine),) if mine else ()
    boot = Boot("a", BootEntry("edge-a.efi", "a", None, 0), False, others)
    found = PendingUpdate("id", UpdateKind.update, stage, "a", "b")
    assert outcome.find_outcome(found, boot, primary) == expected
    if mine == (None, 0):
        last = Boot("a", BootEntry("edge-a.efi", "a", 0, 3), True, others)
        assert outcome.find_outcome(found, last, primary) == UpdateOutcome.unswitched, (
            "it comes next because a is spent"
        )
    if stage != UpdateStage.writing:
        assert outcome.find_outcome(found, Boot("b", None, True, ()), primary) == UpdateOutcome.trial


def test_once_given_up_it_stays_given_up() -> None:
    boot = Boot("a", BootEntry("edge-a.efi", "a", None, 0), False, (BootEntry("edge-b.efi", "b", 0, 0),))
    given_up = PendingUpdate("id", UpdateKind.update, UpdateStage.switched, "a", "b", verdict="health checks failed")
    assert outcome.find_outcome(given_up, boot, "a") == UpdateOutcome.rolled_back


def fall_back(device: Device, *, judged: bool = False, noted: bool = True) -> dict[str, Any]:
    """An update whose slot uses up its tries; the last event."""
    handle_boot(device.node)
    commit_update(device.node)
    switch.switch_slot(device.node, put(device), reboot=True)
    while device.reboot(orderly=judged) == "b":
        if noted:
            handle_boot(device.node)
        if judged:
            health_verdict.store_failed(device.system, asdict(SICK))
    handle_boot(device.node)
    assert pending.load_pending(device.system) is None
    assert device.loader.next_slot(device.system) == "a"
    return history.read_history(device.system)[-1]


def test_a_failed_health_check_is_the_reason_of_the_rollback(device: Device) -> None:
    last = fall_back(device, judged=True)
    assert (last["event"], last["why"]) == ("rolled-back", "health checks failed: 50-node: not Ready")
    assert last["cluster"] == {"snapshot": "000000000042-v1.35.4"}
    ends = [(row["slot"], row["healthy"], row["end"]) for row in boot_records.read_boots(device.system)]
    assert ends == [("a", True, "in order"), *[("b", False, "in order")] * 3, ("a", None, None)]


def test_without_a_verdict_it_says_how_far_the_slot_came_and_what_the_machine_knows(device: Device) -> None:
    assert fall_back(device)["why"].startswith("no verdict: it hung, panicked or lost power")
    device.put("sys/class/watchdog/watchdog0/bootstatus", "0x20\n")
    words = "<0>[ 4.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100\n"
    written = device.put("var/lib/systemd/pstore/1763/dmesg.txt", words)
    os.utime(written, (1e10, 1e10))  # after the switch, which notes its time in whole seconds
    update(device, "1.1.0")  # now it is good; the next one never reaches the agent
    device.loader.slots["a"].image = None
    last = fall_back_from_b(device)
    assert last["why"].startswith("it never came as far as this agent")
    assert "the watchdog watchdog0 has reset the machine" in last["why"]
    assert "Kernel panic - not syncing: Attempted to kill init!" in last["why"]


def test_a_panic_of_an_earlier_time_is_not_blamed_for_this_rollback(device: Device) -> None:
    old = device.put("var/lib/systemd/pstore/9999/dmesg.txt", "<0>[ 4.2] Kernel panic - not syncing: long ago\n")
    os.utime(old, (1e9, 1e9))
    assert crash_evidence.crash_hints(device.system) == [
        "the kernel's last words: Kernel panic - not syncing: long ago"
    ]
    assert fall_back(device)["why"].endswith("before its health checks were over")
    assert explain.collect(device.node)["hints"] == []
    new = device.put("var/lib/systemd/pstore/1000/dmesg.txt", "<0>[ 4.2] Kernel panic - not syncing: just now\n")
    for seconds in (1e10, 1.5e9):
        os.utime(new, (seconds, seconds))
        assert crash_evidence.crash_hints(device.system)[0].endswith("just now"), "the newest, whatever it is called"
        assert len(explain.collect(device.node)["hints"]) == (seconds == 1e10)
    device.put("sys/fs/pstore/dmesg-ramoops-0", "Kernel panic - not syncing: nobody has moved it\n")
    assert explain.collect(device.node)["hints"][0].endswith("nobody has moved it")


def fall_back_from_b(device: Device) -> dict[str, Any]:
    switch.switch_slot(device.node, put(device, "1.2.0"), reboot=True)
    while device.reboot(orderly=False) == "a":
        pass
    handle_boot(device.node)
    return history.read_history(device.system)[-1]


def test_a_verdict_of_another_time_is_no_reason(device: Device) -> None:
    handle_boot(device.node)
    device.put("proc/cmdline", "edge.slot=b")
    (device.root / "usr/lib/edge-osbuild/image.json").write_text('{"version": "1.1.0"}')
    health_verdict.store_failed(device.system, asdict(SICK))
    device.start("a")
    assert fall_back(device)["why"].startswith("no verdict: ")


def test_what_the_boot_loader_passes_over_is_given_up_at_the_next_boot_and_blocks_no_update(device: Device) -> None:
    found = put(device)
    switch.switch_slot(device.node, found, reboot=False)
    handle_boot(device.node)
    assert pending.load_pending(device.system), "in the boot that made the switch nobody has passed it over yet"
    device.loader.damaged = {"1.1.0"}
    assert (device.reboot(), device.loader.next_slot(device.system)) == ("a", "b")
    handle_boot(device.node)
    last = history.read_history(device.system)[-1]
    assert (last["event"], last["id"], last["why"]) == ("rolled-back", found.id, outcome.SKIPPED)
    assert (pending.load_pending(device.system), device.loader.next_slot(device.system)) == (None, "a")
    preconditions.check_ready(device.node)


def test_a_slot_that_was_good_and_is_passed_over_when_going_back_to_it_is_rejected(device: Device) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    update(device)
    rollback.roll_back(device.node, reboot=True)
    device.loader.damaged = {"1.0.0"}
    assert device.reboot() == "b"
    handle_boot(device.node)
    good(device)
    assert (events(device)[-1], history.read_history(device.system)[-1]["why"]) == ("rolled-back", outcome.SKIPPED)
    assert (pending.load_pending(device.system), device.loader.next_slot(device.system)) == (None, "b")


def test_what_the_cluster_lost_is_in_the_history_even_after_a_power_cut(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.cluster.done = {"restored": {"lost": {"created": ["configmaps/default/x"]}}}
    handle_boot(device.node)
    assert history.read_history(device.system)[-1]["cluster"] == device.cluster.done
    device.cluster.done = None
    commit_update(device.node)
    switch.switch_slot(device.node, put(device), reboot=True)
    while device.reboot() == "b":
        pass
    found = pending.load_pending(device.system)
    device.cluster.done = {"restored": {"lost": {"created": ["configmaps/default/y"]}}}
    device.loader.readable = False  # as good as a cut: no verdict in this boot
    monkeypatch.setattr(device.loader, "next_slot", lambda system: None)
    handle_boot(device.node)
    assert found and pending.load_pending(device.system)
    monkeypatch.undo()
    device.loader.readable, device.cluster.done = True, None
    handle_boot(device.node)
    assert history.read_history(device.system)[-1]["cluster"]["restored"]["lost"]["created"] == ["configmaps/default/y"]


def test_data_that_can_not_follow_keeps_kubernetes_from_starting_and_nothing_else(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.cluster.fails = OSError(28, "No space left on device")
    assert handle_boot(device.node) == 1
    assert boot_records.read_boots(device.system)[-1]["slot"] == "a"
    assert "No space left" in history.read_history(device.system)[-1]["cluster"]["problem"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"id": 1}', '{"stage": "cooking"}', '{"facts": 7, "stage": "switched"}']
)
def test_a_note_that_makes_no_sense_stops_no_boot(device: Device, text: str) -> None:
    for name in ("pending.json", "boots.jsonl", "history.jsonl", "verdict.json", "floor"):
        device.put(f"var/lib/edge-osbuild/update/{name}", text)
    assert handle_boot(device.node) == 0
    commit_update(device.node)
    assert explain.page_lines(explain.collect(device.node))
    update(device)
    assert (device.slot, minimum_version.read_minimum(device.system)) == ("b", "1.1.0")


JUNK = (7, "text", [1], {"a": 1}, None, True)


@pytest.mark.parametrize("name", ["pending.json", "boots.jsonl", "history.jsonl", "verdict.json", "install.log"])
def test_what_is_written_down_may_be_of_any_type_and_explain_is_still_a_page(device: Device, name: str) -> None:
    fall_back(device, judged=True)
    records.save_rows(device.system, install.LOG, [{"line": "installing `/b` succeeded"}], count=9, size=999)
    switch.switch_slot(device.node, put(device, "1.2.0"), reboot=False)
    path = records.state_path(device.system, name)
    *others, last = [path.read_text()] if name.endswith(".json") else path.read_text().splitlines()
    known = json.loads(last)
    for key in known:
        for junk in JUNK:
            path.write_text("\n".join([*others, json.dumps({**known, key: junk})]) + "\n")
            assert explain.page_lines(explain.collect(device.node)), (key, junk)
            assert status.status_lines(status.update_status(device.node))
            assert history.read_history(device.system)


def test_a_note_of_a_newer_agent_is_understood_as_far_as_it_goes(device: Device) -> None:
    put(device)
    path = device.root / "var/lib/edge-osbuild/update/pending.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    found = pending.load_pending(device.system)
    assert found and found.after["version"] == "1.1.0"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_history_and_boots_are_bounded(device: Device) -> None:
    for number in range(history.COUNT + 50):
        history.append_event(device.system, history.UpdateEvent.cluster, None, why="x" * 3000 + str(number))
    rows = history.read_history(device.system)
    assert rows[-1]["why"].endswith("249")
    assert (device.root / "var/lib/edge-osbuild/update/history.jsonl").stat().st_size <= history.SIZE
    for _ in range(boot_records.COUNT + 10):
        device.reboot()
        boot_records.record_boot(device.system, device.node.read_boot())
        boot_records.record_boot(device.system, device.node.read_boot())
    assert len(boot_records.read_boots(device.system)) == boot_records.COUNT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compatible": "edge-osbuild-tiny-other"}, "it is for edge-osbuild-tiny-other, and this device is"),
        ({"meta": {"architecture": "arm64"}}, "it is for arm64, and this device is x86_64"),
        ({"version": "0.9.0"}, "version 0.9.0 is older than 1.0.0, below which"),
        ({"version": "soon"}, "version soon is older than 1.0.0"),
        ({"version": "0.9.0", "meta": {"downgrade": "2.0.0"}}, "may replace 2.0.0 only, and 1.0.0 runs here"),
        ({"images": {"root": 2**60}}, "MiB are needed"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_and_why(device: Device, change: dict[str, Any], message: str) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    fields = {**manifest().__dict__, **change}
    with pytest.raises(Problem, match=message) as caught:
        preconditions.check_bundle(device.node, "/bundle.raucb", BundleManifest(**fields), COMPATIBLE)
    assert caught.value.where in ("/bundle.raucb", "/var")
    assert caught.value.hint


def test_kubernetes_has_its_own_rule(device: Device) -> None:
    assert preconditions.check_bundle(device.node, "/b", manifest(kubernetes="upstream v1.36.3"), COMPATIBLE) is False
    device.cluster.refuses = "it has Kubernetes v1.34.3, older than v1.36.3"
    with pytest.raises(Problem, match=r"older than v1\.36\.3"):
        preconditions.check_bundle(device.node, "/b", manifest(kubernetes="upstream v1.34.3"), COMPATIBLE)


def test_only_a_bundle_that_its_signer_allows_lowers_the_floor_and_only_once_it_is_good(device: Device) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    update(device, "1.1.0")
    allowed = manifest("1.0.5", downgrade="1.1.0")
    assert preconditions.check_bundle(device.node, "/b", allowed, COMPATIBLE) is True
    switch.switch_slot(device.node, put(device, "1.0.5", downgrade=True), reboot=True)
    device.reboot()
    handle_boot(device.node)
    assert minimum_version.read_minimum(device.system) == "1.1.0", "on trial it changes nothing"
    good(device)
    assert minimum_version.read_minimum(device.system) == "1.0.5"
    assert "min-bundle-version=1.0.5" in device.system.text("/run/rauc/system.conf")


def test_the_slot_that_is_fallen_back_to_is_never_overwritten(device: Device) -> None:
    switch.switch_slot(device.node, put(device), reboot=True)
    with pytest.raises(Problem, match=r"1\.1\.0 in slot b is to be booted next"):
        preconditions.check_ready(device.node)
    device.reboot()
    handle_boot(device.node)
    with pytest.raises(Problem, match=r"slot b is still on trial \(2 tries left\)") as caught:
        preconditions.check_ready(device.node)
    assert "slot a is what it falls back to" in str(caught.value.hint)
    device.loader.bless(device.system, "b")
    with pytest.raises(Problem, match="the last update is not finished"):
        preconditions.check_ready(device.node)
    commit_update(device.node)
    preconditions.check_ready(device.node)


def test_pods_get_as_long_as_the_profile_says_to_leave(device: Device) -> None:
    found = put(device)
    facts = {**device.system.image(), "update": asdict(UpdateSettings(drain_deadline=7))}
    device.put("usr/lib/edge-osbuild/image.json", json.dumps(facts))
    switch.switch_slot(device.node, found, reboot=True)
    assert device.cluster.deadline == 7


def test_a_switch_that_fails_leaves_the_node_as_it_was(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    found = put(device)
    device.cluster.fails = RuntimeError("the cluster's data can't be snapshotted: no space")
    with pytest.raises(Problem, match="no space") as caught:
        switch.switch_slot(device.node, found, reboot=True)
    assert "update switch" in str(caught.value.hint)
    device.cluster.fails = None
    assert not device.cluster.cordoned
    assert (device.restarts, device.loader.next_slot(device.system)) == (0, "a")
    kept = pending.load_pending(device.system)
    assert kept and (kept.id, kept.stage) == (found.id, UpdateStage.installed)
    monkeypatch.setattr(device.loader, "next_slot", lambda system: "a")
    with pytest.raises(Problem, match="the boot loader takes slot a next, and not b"):
        switch.switch_slot(device.node, found, reboot=True)
    monkeypatch.undo()
    device.loader.slots["b"].staged = device.loader.slots["b"].entry = False
    with pytest.raises(Problem, match="slot b has no boot file"):
        switch.switch_pending(device.node, reboot=True)
    assert pending.load_pending(device.system) is None, "there is nothing to switch to: it is to be installed again"
    switch.switch_slot(device.node, put(device), reboot=True)
    assert (device.restarts, device.reboot()) == (1, "b")


def test_what_is_installed_already_is_not_written_again(device: Device) -> None:
    found = put(device)
    again = install.plan_update(device.node, "http://other/place", manifest(), False, None)
    assert again == found
    assert install.plan_update(device.node, "/b", manifest(), False, "something else").stage == UpdateStage.writing
    assert install.plan_update(device.node, "/b", manifest("1.2.0"), False, None).id != found.id
    assert events(device)[-1] == "replaced"


def test_an_installation_that_fails_is_over(device: Device) -> None:
    def fail() -> dict[str, Any]:
        raise Problem("its signature is not good")

    with pytest.raises(Problem):
        install.write_slot(device.node, install.plan_update(device.node, "/b", manifest(), False, None), fail)
    assert pending.load_pending(device.system) is None
    assert (events(device), history.read_history(device.system)[-1]["why"]) == (
        ["started", "failed"],
        "its signature is not good",
    )


def test_what_was_fetched_outlives_a_power_cut_and_not_an_update_that_was_given_up(device: Device) -> None:
    about, bundle = (records.state_path(device.system, name) for name in records.DOWNLOAD)

    def fetch() -> None:
        about.write_text('{"identity": "x"}')
        bundle.write_bytes(b"half of it")

    fetch()
    pending.save_pending(device.system, install.plan_update(device.node, "http://x/b", manifest(), False, None))
    handle_boot(device.node)
    commit_update(device.node)
    assert events(device) == ["interrupted"]
    assert about.exists() and bundle.exists(), "the next installation goes on with it"
    device.reboot()
    handle_boot(device.node)
    assert not (about.exists() or bundle.exists()), "there was none"
    switch.switch_slot(device.node, put(device), reboot=True)
    device.reboot()
    handle_boot(device.node)
    fetch()
    good(device)
    assert not (about.exists() or bundle.exists())


def test_a_switch_can_be_taken_back_before_it_is_booted(device: Device) -> None:
    switch.switch_slot(device.node, put(device), reboot=False)
    assert device.restarts == 0
    rollback.roll_back(device.node, reboot=True)
    assert (device.restarts, device.reboot(), device.cluster.cordoned) == (0, "a", False)
    handle_boot(device.node)
    assert (pending.load_pending(device.system), events(device)[-1]) == (None, "withdrawn")


def test_rollback_by_hand_goes_to_what_was_good_and_back_again(device: Device) -> None:
    handle_boot(device.node)
    commit_update(device.node)
    with pytest.raises(Problem, match="slot b has no image"):
        rollback.roll_back(device.node, reboot=True)
    update(device)
    for slot, version in (("a", "1.0.0"), ("b", "1.1.0")):
        rollback.roll_back(device.node, reboot=True)
        assert f"going back to {version} in slot {slot}\nthe cluster's data stays as it is" in device.said
        assert device.reboot() == slot
        handle_boot(device.node)
        good(device)
        assert history.read_history(device.system)[-1]["kind"] == "rollback"
    assert minimum_version.read_minimum(device.system) == "1.1.0"


def test_rollback_needs_a_slot_that_was_good(device: Device) -> None:
    put(device)
    with pytest.raises(Problem, match=r"slot b holds 1\.1\.0, which never ran"):
        rollback.roll_back(device.node, reboot=True)
    fall_back(device)
    with pytest.raises(Problem, match="slot b is marked as bad"):
        rollback.roll_back(device.node, reboot=True)
    assert device.restarts == 1  # the update's


def test_one_update_at_a_time(device: Device) -> None:
    found = install.plan_update(device.node, "/b", manifest(), False, None)
    pending.save_pending(device.system, found)
    assert status.update_status(device.node)["pending"]["outlook"].endswith("install it again")
    with update_lock(device.system):
        assert status.update_status(device.node)["pending"]["outlook"] == "is being written"
        with pytest.raises(Problem, match="another update is being installed") as caught:
            with update_lock(device.system):
                pytest.fail("two at a time")
        assert "process " in str(caught.value.hint)
    with update_lock(device.system):
        pass


def test_what_may_go_by_is_tried_again_and_the_rest_is_not(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    tries: list[Reason] = []

    def act() -> str:
        if tries:
            raise Failure(tries.pop(0))
        return "done"

    lost, corrupt = Reason("lost", final=False), Reason("damaged", final=False, kind=CORRUPT)
    tries += [lost] * 8 + [corrupt]
    assert install.retry_until_deadline(device.node, "/b", 3600.0, act) == "done"
    assert [round(wait / 2**number) for number, wait in enumerate(slept[:5])] == [2] * 5
    assert max(slept) <= 75
    slept.clear()
    tries += [corrupt, corrupt, lost]
    with pytest.raises(Problem, match="damaged"):
        install.retry_until_deadline(device.node, "/b", 3600.0, act)
    slept.clear()
    tries[:] = [lost] * 100
    with pytest.raises(Problem, match="lost, and the time is over"):
        install.retry_until_deadline(device.node, "/b", 100.0, act)
    assert 30 < sum(slept) <= 100
    slept.clear()
    tries[:] = [lost, NO_TIME]
    with pytest.raises(Problem, match="it did not get done in time, after this: lost"):
        install.retry_until_deadline(device.node, "/b", 100.0, act)
    tries[:] = [lost, Reason("no answer within 3 s", final=False)]
    slept.clear()
    with pytest.raises(Problem, match="no answer within 3 s, after this: lost, and the time is over"):
        install.retry_until_deadline(device.node, "/b", 4.0, act)  # between the longest first wait and the shortest two
    tries[:] = [Reason("unsigned")]
    with pytest.raises(Problem, match="unsigned"):
        install.retry_until_deadline(device.node, "/b", 3600.0, act)


def test_reports_are_lines_for_people_and_objects_for_scripts() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, terminal, machine = io.StringIO(), Terminal(), io.StringIO()
    for report in (Progress(output=plain), Progress(output=terminal), Progress(True, machine)):
        for percent in (0, 1, 9, 10, 40, 41, 100):
            report.report_progress(percent, "copying", 2_500_000)
        report.report_event("installed", "done", seconds=1.5)
    assert plain.getvalue().count("copying") == 4
    assert terminal.getvalue().count("\n") == 2
    assert "\r 41 %  copying, 2.5 MB fetched" in terminal.getvalue()
    rows = [json.loads(line) for line in machine.getvalue().splitlines()]
    assert rows[0] == {"event": "progress", "percent": 0, "text": "copying", "fetched": 2_500_000}
    assert rows[-1] == {"event": "installed", "text": "done", "seconds": 1.5}


def test_explain_is_one_page_with_every_why(device: Device) -> None:
    fall_back(device, judged=True)
    records.save_rows(device.system, install.LOG, [{"line": "installing `/b` succeeded"}], count=9, size=999)
    found = explain.collect(device.node)
    page = "\n".join(explain.page_lines(found))
    for part in (
        "fell back to slot a: slot b failed 3 tries", "floor", "1.0.0 -> 1.1.0 (slot b): health checks failed",
        "the last boot that failed its checks (slot b, 1.1.0,", "BAD 50-node  not Ready",
        "slot b  1.1.0, try 3: NOT GOOD, in order", "installing `/b` succeeded", "cluster:  \"snapshot\"",
    ):  # fmt: skip
        assert part in page, part
    assert len(page.splitlines()) < 60
    assert json.loads(json.dumps(found)) == found
