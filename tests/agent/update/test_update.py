"""Decisions of an update on a device: preconditions, results and records."""

import io
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.boot.loader import Boot
from osbuild.agent.commands import explain, rollback
from osbuild.agent.errors import Problem
from osbuild.agent.health import CheckResult, RoundResult
from osbuild.agent.update import (
    boot_records,
    crash_evidence,
    health_verdict,
    history,
    install,
    leftovers,
    minimum_version,
    pending,
    preconditions,
    records,
    status,
    switch,
    update_state,
)
from osbuild.agent.update.after_boot import handle_boot
from osbuild.agent.update.commit import commit_update
from osbuild.agent.update.context import update_lock
from osbuild.agent.update.failure import CORRUPT, NO_TIME, Failure, Reason
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import ConsoleProgress, JsonProgress, Progress, ProgressEvent
from osbuild.agent.update.rauc import BundleManifest
from osbuild.agent.update.update_state import UpdateState
from osbuild.config.profile import UpdateSettings
from osbuild.shared.boot_entry import BootEntry
from osbuild.shared.image_description import UpdateLimits
from osbuild.shared.image_versions import is_older
from tests.support.devices import Device

COMPATIBLE = "edge-osbuild-tiny-test"
SICK = RoundResult(
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
    """Install an update without switching to it."""
    pending_update = install.plan_update(
        device.context, "/bundle.raucb", manifest(version), bool(changes.pop("downgrade", False)), None
    )
    return install.write_slot(device.context, pending_update, device.write(version))


def update(device: Device, version: str = "1.1.0", **changes: Any) -> None:
    """Install an update, boot it and commit it."""
    switch.switch_slot(device.context, put(device, version, **changes), reboot=True)
    device.reboot()
    assert handle_boot(device.context) == 0
    commit(device)


def commit(device: Device) -> None:
    device.loader.bless(device.system, device.slot)
    commit_update(device.context)


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
def test_versions_are_compared_as_defined_by_semver_org(version: str, than: str, expected: bool | None) -> None:
    assert is_older(version, than) is expected


def test_a_good_update_changes_the_slot_and_raises_the_minimum_version(device: Device) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    assert minimum_version.read_minimum(device.system) == "1.0.0"
    pending_update = put(device)
    assert (pending_update.stage, pending_update.origin, pending_update.target, pending_update.after["version"]) == (
        UpdateStage.installed,
        "a",
        "b",
        "1.1.0",
    )
    assert device.loader.next_slot(device.system) == "a", "writing a slot does not switch to it"
    switch.switch_slot(device.context, pending_update, reboot=True)
    assert (device.restarts, device.loader.next_slot(device.system), device.cluster.cordoned) == (1, "b", True)
    assert device.reboot() == "b"
    handle_boot(device.context)
    assert status.update_status(device.context)["pending"]["outlook"] == "is on trial and running"
    with pytest.raises(Problem, match="it was not marked as good"):
        commit_update(device.context)
    commit(device)
    assert pending.load_pending(device.system) is None
    assert minimum_version.read_minimum(device.system) == "1.1.0"
    assert not device.cluster.cordoned
    assert events(device) == ["started", "installed", "switched", "committed"]
    assert history.read_history(device.system)[1]["facts"] == {"fetched": 4096}


def unpack_k3s(device: Device) -> list[Path]:
    """Create the folders into which K3s of older images unpacked itself."""
    folders = [device.root / name.lstrip("/") for name in leftovers.FOLDERS]
    for folder in folders:
        (folder / "0123/bin").mkdir(parents=True)
        (folder / "0123/bin/k3s").touch()
        (folder / "current").symlink_to("0123")
    return folders


def record_older_image(device: Device) -> None:
    """Make the record of the last boot look like that of an image whose K3s unpacks itself."""
    rows = boot_records.read_boots(device.system)
    del rows[-1]["unpacks"]
    records.save_rows(device.system, boot_records.FILE, rows, count=boot_records.COUNT, size=boot_records.SIZE)


def test_unpacked_files_of_k3s_are_kept_while_a_slot_may_need_them(device: Device) -> None:
    folders = unpack_k3s(device)
    handle_boot(device.context)
    record_older_image(device)
    commit_update(device.context)
    update(device)
    assert all(folder.is_dir() for folder in folders), "a rollback would boot the image that needs them"
    rollback.roll_back(device.context, reboot=True)
    device.reboot()
    handle_boot(device.context)
    record_older_image(device)
    commit(device)
    update(device, "1.2.0")
    pending_update = put(device, "1.3.0")
    assert pending_update.target == "a"
    commit_update(device.context)
    assert all(folder.is_dir() for folder in folders), "an update is pending"
    switch.switch_slot(device.context, pending_update, reboot=True)
    device.reboot()
    handle_boot(device.context)
    commit(device)
    assert not any(folder.exists() for folder in folders)
    assert not folders[1].parent.exists() and folders[1].parent.parent.is_dir(), (
        "systemd-tmpfiles creates a link there at the next boot"
    )
    assert folders[0].parent.is_dir()


def test_a_removal_that_a_power_cut_interrupted_is_finished(device: Device) -> None:
    folder = unpack_k3s(device)[0]
    folder.rename(folder.with_name(leftovers.REMOVED))
    handle_boot(device.context)
    record_older_image(device)
    commit_update(device.context)
    assert not folder.with_name(leftovers.REMOVED).exists()


def test_nothing_is_removed_while_the_boot_entries_cannot_be_read(device: Device) -> None:
    folders = unpack_k3s(device)
    handle_boot(device.context)
    device.loader.readable = False
    commit_update(device.context)
    assert all(folder.is_dir() for folder in folders)
    device.loader.readable = True
    (device.root / "var/lib/kubernetes/keep").touch()
    commit_update(device.context)
    assert [path.name for path in (device.root / "var/lib/kubernetes").iterdir()] == ["keep"]


def test_the_minimum_version_is_written_for_rauc_at_every_boot(device: Device) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    assert device.system.text("/run/rauc/system.conf").splitlines()[:2] == ["[system]", "min-bundle-version=1.0.0"]
    (device.root / "run/rauc/system.conf").unlink()
    handle_boot(device.context)
    assert "min-bundle-version=1.0.0\ncompatible=" in device.system.text("/run/rauc/system.conf")
    assert not minimum_version.write_rauc_config(device.system), "it is only written if it has changed"


@pytest.mark.parametrize(
    ("stage", "counter", "next_slot", "expected"),
    [
        (UpdateStage.writing, None, "a", UpdateState.interrupted),
        (UpdateStage.installed, None, "a", UpdateState.unswitched),
        (UpdateStage.switched, None, "a", UpdateState.unswitched),
        (UpdateStage.switched, (3, 0), "b", UpdateState.waiting),
        (UpdateStage.switched, (2, 1), "b", UpdateState.rolled_back),
        (UpdateStage.switched, (0, 3), "a", UpdateState.rolled_back),
        (UpdateStage.installed, (0, 3), "a", UpdateState.rolled_back),
        (UpdateStage.switched, (0, 0), "a", UpdateState.unswitched),
        (UpdateStage.switched, (None, 0), "b", UpdateState.waiting),
        (UpdateStage.switched, (None, 0), "a", UpdateState.unswitched),
        (UpdateStage.switched, (0, 3), None, UpdateState.unknown),
    ],
)
def test_the_result_of_an_update_follows_from_its_stage_and_the_boot_entries(
    stage: UpdateStage, counter: tuple[int | None, int] | None, next_slot: str | None, expected: UpdateState
) -> None:
    others = (BootEntry("edge-b.efi", "b", *counter),) if counter else ()
    boot = Boot("a", BootEntry("edge-a.efi", "a", None, 0), False, others)
    pending_update = PendingUpdate("id", UpdateKind.update, stage, "a", "b")
    assert update_state.find_state(pending_update, boot, next_slot) == expected
    if counter == (None, 0):
        last = Boot("a", BootEntry("edge-a.efi", "a", 0, 3), True, others)
        assert update_state.find_state(pending_update, last, next_slot) == UpdateState.unswitched, (
            "b is next only because a has no try left"
        )
    if stage != UpdateStage.writing:
        assert update_state.find_state(pending_update, Boot("b", None, True, ()), next_slot) == UpdateState.trial


def test_an_update_with_a_reason_for_its_rollback_stays_rolled_back() -> None:
    boot = Boot("a", BootEntry("edge-a.efi", "a", None, 0), False, (BootEntry("edge-b.efi", "b", 0, 0),))
    rolled_back = PendingUpdate("id", UpdateKind.update, UpdateStage.switched, "a", "b", verdict="health checks failed")
    assert update_state.find_state(rolled_back, boot, "a") == UpdateState.rolled_back


def fall_back(device: Device, *, with_verdict: bool = False, recorded: bool = True) -> dict[str, Any]:
    """Install an update whose slot uses up its tries. Returns the last event."""
    handle_boot(device.context)
    commit_update(device.context)
    switch.switch_slot(device.context, put(device), reboot=True)
    while device.reboot(orderly=with_verdict) == "b":
        if recorded:
            handle_boot(device.context)
        if with_verdict:
            health_verdict.store_failed(device.system, asdict(SICK))
    handle_boot(device.context)
    assert pending.load_pending(device.system) is None
    assert device.loader.next_slot(device.system) == "a"
    return history.read_history(device.system)[-1]


def test_a_failed_health_check_is_the_reason_of_the_rollback(device: Device) -> None:
    last = fall_back(device, with_verdict=True)
    assert (last["event"], last["why"]) == ("rolled-back", "health checks failed: 50-node: not Ready")
    assert last["cluster"] == {"snapshot": "000000000042-v1.35.4"}
    ends = [(row["slot"], row["healthy"], row["end"]) for row in boot_records.read_boots(device.system)]
    assert ends == [("a", True, "in order"), *[("b", False, "in order")] * 3, ("a", None, None)]


def test_without_a_verdict_the_reason_says_what_the_slot_reached_and_lists_crash_evidence(device: Device) -> None:
    assert fall_back(device)["why"].startswith("no verdict: the device hung, panicked or lost power")
    device.put("sys/class/watchdog/watchdog0/bootstatus", "0x20\n")
    message = "<0>[ 4.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100\n"
    dump = device.put("var/lib/systemd/pstore/1763/dmesg.txt", message)
    os.utime(dump, (1e10, 1e10))  # after the switch, which notes its time in whole seconds
    update(device, "1.1.0")  # this update is committed; the next one never reaches the agent
    device.loader.slots["a"].image = None
    last = fall_back_from_b(device)
    assert last["why"].startswith("the boot did not reach the edge agent")
    assert "the watchdog watchdog0 has reset the device" in last["why"]
    assert "Kernel panic - not syncing: Attempted to kill init!" in last["why"]


def test_an_earlier_panic_is_not_evidence_for_this_rollback(device: Device) -> None:
    old = device.put("var/lib/systemd/pstore/9999/dmesg.txt", "<0>[ 4.2] Kernel panic - not syncing: long ago\n")
    os.utime(old, (1e9, 1e9))
    assert crash_evidence.crash_hints(device.system) == [
        "the kernel's last message: Kernel panic - not syncing: long ago"
    ]
    assert fall_back(device)["why"].endswith("before the health checks ended")
    assert explain.collect_report(device.context)["hints"] == []
    new = device.put("var/lib/systemd/pstore/1000/dmesg.txt", "<0>[ 4.2] Kernel panic - not syncing: just now\n")
    for seconds in (1e10, 1.5e9):
        os.utime(new, (seconds, seconds))
        assert crash_evidence.crash_hints(device.system)[0].endswith("just now"), (
            "the newest one, regardless of its name"
        )
        assert len(explain.collect_report(device.context)["hints"]) == (seconds == 1e10)
    device.put("sys/fs/pstore/dmesg-ramoops-0", "Kernel panic - not syncing: not archived\n")
    assert explain.collect_report(device.context)["hints"][0].endswith("not archived")


def fall_back_from_b(device: Device) -> dict[str, Any]:
    switch.switch_slot(device.context, put(device, "1.2.0"), reboot=True)
    while device.reboot(orderly=False) == "a":
        pass
    handle_boot(device.context)
    return history.read_history(device.system)[-1]


def test_a_verdict_on_an_earlier_boot_is_not_the_reason(device: Device) -> None:
    handle_boot(device.context)
    device.put("proc/cmdline", "edge.slot=b")
    (device.root / "usr/lib/edge-osbuild/image.json").write_text('{"version": "1.1.0"}')
    health_verdict.store_failed(device.system, asdict(SICK))
    device.start("a")
    assert fall_back(device)["why"].startswith("no verdict: ")


def test_an_update_that_the_boot_loader_skips_is_rolled_back_and_blocks_no_other_update(device: Device) -> None:
    pending_update = put(device)
    switch.switch_slot(device.context, pending_update, reboot=False)
    handle_boot(device.context)
    assert pending.load_pending(device.system), "it cannot be skipped in the boot that switched"
    device.loader.damaged = {"1.1.0"}
    assert (device.reboot(), device.loader.next_slot(device.system)) == ("a", "b")
    handle_boot(device.context)
    last = history.read_history(device.system)[-1]
    assert (last["event"], last["id"], last["why"]) == ("rolled-back", pending_update.id, update_state.SKIPPED)
    assert (pending.load_pending(device.system), device.loader.next_slot(device.system)) == (None, "a")
    preconditions.check_ready(device.context)


def test_a_good_slot_that_is_skipped_by_a_rollback_is_rejected(device: Device) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    update(device)
    rollback.roll_back(device.context, reboot=True)
    device.loader.damaged = {"1.0.0"}
    assert device.reboot() == "b"
    handle_boot(device.context)
    commit(device)
    assert (events(device)[-1], history.read_history(device.system)[-1]["why"]) == ("rolled-back", update_state.SKIPPED)
    assert (pending.load_pending(device.system), device.loader.next_slot(device.system)) == (None, "b")


def test_lost_cluster_data_are_recorded_in_the_history_even_after_a_power_cut(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.cluster.done = {"restored": {"lost": {"created": ["configmaps/default/x"]}}}
    handle_boot(device.context)
    assert history.read_history(device.system)[-1]["cluster"] == device.cluster.done
    device.cluster.done = None
    commit_update(device.context)
    switch.switch_slot(device.context, put(device), reboot=True)
    while device.reboot() == "b":
        pass
    pending_update = pending.load_pending(device.system)
    device.cluster.done = {"restored": {"lost": {"created": ["configmaps/default/y"]}}}
    device.loader.readable = False  # like a power cut: no result in this boot
    monkeypatch.setattr(device.loader, "next_slot", lambda system: None)
    handle_boot(device.context)
    assert pending_update and pending.load_pending(device.system)
    monkeypatch.undo()
    device.loader.readable, device.cluster.done = True, None
    handle_boot(device.context)
    assert history.read_history(device.system)[-1]["cluster"]["restored"]["lost"]["created"] == ["configmaps/default/y"]


def test_cluster_data_that_cannot_be_restored_stop_only_kubernetes(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.cluster.fails = OSError(28, "No space left on device")
    assert handle_boot(device.context) == 1
    assert boot_records.read_boots(device.system)[-1]["slot"] == "a"
    assert "No space left" in history.read_history(device.system)[-1]["cluster"]["problem"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"id": 1}', '{"stage": "cooking"}', '{"facts": 7, "stage": "switched"}']
)
def test_invalid_records_do_not_stop_a_boot(device: Device, text: str) -> None:
    for name in ("pending.json", "boots.jsonl", "history.jsonl", "verdict.json", "floor"):
        device.put(f"var/lib/edge-osbuild/update/{name}", text)
    assert handle_boot(device.context) == 0
    commit_update(device.context)
    assert explain.page_lines(explain.collect_report(device.context))
    update(device)
    assert (device.slot, minimum_version.read_minimum(device.system)) == ("b", "1.1.0")


JUNK = (7, "text", [1], {"a": 1}, None, True)


@pytest.mark.parametrize("name", ["pending.json", "boots.jsonl", "history.jsonl", "verdict.json", "install.log"])
def test_explain_works_with_records_of_any_type(device: Device, name: str) -> None:
    fall_back(device, with_verdict=True)
    records.save_rows(device.system, install.LOG, [{"line": "installing `/b` succeeded"}], count=9, size=999)
    switch.switch_slot(device.context, put(device, "1.2.0"), reboot=False)
    path = records.state_path(device.system, name)
    *others, last = [path.read_text()] if name.endswith(".json") else path.read_text().splitlines()
    record = json.loads(last)
    for key in record:
        for junk in JUNK:
            path.write_text("\n".join([*others, json.dumps({**record, key: junk})]) + "\n")
            assert explain.page_lines(explain.collect_report(device.context)), (key, junk)
            assert status.status_lines(status.update_status(device.context))
            assert history.read_history(device.system)


def test_unknown_fields_of_a_newer_agent_are_ignored(device: Device) -> None:
    put(device)
    path = device.root / "var/lib/edge-osbuild/update/pending.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    pending_update = pending.load_pending(device.system)
    assert pending_update and pending_update.after["version"] == "1.1.0"
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
        boot_records.record_boot(device.system, device.context.read_boot())
        boot_records.record_boot(device.system, device.context.read_boot())
    assert len(boot_records.read_boots(device.system)) == boot_records.COUNT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compatible": "edge-osbuild-tiny-other"}, "the bundle is for edge-osbuild-tiny-other, but this device is"),
        ({"meta": {"architecture": "arm64"}}, "the bundle is for arm64, but this device is x86_64"),
        ({"version": "0.9.0"}, "version 0.9.0 is older than the minimum version 1.0.0"),
        ({"version": "soon"}, "version soon is older than the minimum version 1.0.0"),
        ({"version": "0.9.0", "meta": {"downgrade": "2.0.0"}}, "may only replace 2.0.0, but 1.0.0 is running"),
        ({"images": {"root": 2**60}}, "MiB are needed"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_with_reason_and_hint(
    device: Device, change: dict[str, Any], message: str
) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    fields = {**manifest().__dict__, **change}
    with pytest.raises(Problem, match=message) as caught:
        preconditions.check_bundle(device.context, "/bundle.raucb", BundleManifest(**fields), COMPATIBLE)
    assert caught.value.where in ("/bundle.raucb", "/var")
    assert caught.value.hint


def test_a_kubernetes_version_that_the_cluster_refuses_is_refused(device: Device) -> None:
    assert (
        preconditions.check_bundle(device.context, "/b", manifest(kubernetes="upstream v1.36.3"), COMPATIBLE) is False
    )
    device.cluster.refuses = "the bundle contains Kubernetes v1.34.3, older than v1.36.3"
    with pytest.raises(Problem, match=r"older than v1\.36\.3"):
        preconditions.check_bundle(device.context, "/b", manifest(kubernetes="upstream v1.34.3"), COMPATIBLE)


def test_only_a_committed_downgrade_that_the_signer_allows_lowers_the_minimum_version(device: Device) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    update(device, "1.1.0")
    allowed = manifest("1.0.5", downgrade="1.1.0")
    assert preconditions.check_bundle(device.context, "/b", allowed, COMPATIBLE) is True
    switch.switch_slot(device.context, put(device, "1.0.5", downgrade=True), reboot=True)
    device.reboot()
    handle_boot(device.context)
    assert minimum_version.read_minimum(device.system) == "1.1.0", "a trial does not change it"
    commit(device)
    assert minimum_version.read_minimum(device.system) == "1.0.5"
    assert "min-bundle-version=1.0.5" in device.system.text("/run/rauc/system.conf")


def test_the_fallback_slot_is_never_overwritten(device: Device) -> None:
    switch.switch_slot(device.context, put(device), reboot=True)
    with pytest.raises(Problem, match=r"1\.1\.0 in slot b will be booted next"):
        preconditions.check_ready(device.context)
    device.reboot()
    handle_boot(device.context)
    with pytest.raises(Problem, match=r"slot b is still on trial \(2 tries left\)") as caught:
        preconditions.check_ready(device.context)
    assert "slot a is needed for a fallback" in str(caught.value.hint)
    device.loader.bless(device.system, "b")
    with pytest.raises(Problem, match="the last update is not committed"):
        preconditions.check_ready(device.context)
    commit_update(device.context)
    preconditions.check_ready(device.context)


def test_the_profile_sets_the_drain_deadline(device: Device) -> None:
    pending_update = put(device)
    image = replace(device.system.image(), update=UpdateLimits(**asdict(UpdateSettings(drain_deadline=7))))
    device.put("usr/lib/edge-osbuild/image.json", image.to_text())
    switch.switch_slot(device.context, pending_update, reboot=True)
    assert device.cluster.deadline == 7


def test_a_failed_switch_is_undone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pending_update = put(device)
    device.cluster.fails = RuntimeError("no snapshot of the cluster data can be taken: no space")
    with pytest.raises(Problem, match="no space") as caught:
        switch.switch_slot(device.context, pending_update, reboot=True)
    assert "update switch" in str(caught.value.hint)
    device.cluster.fails = None
    assert not device.cluster.cordoned
    assert (device.restarts, device.loader.next_slot(device.system)) == (0, "a")
    stored = pending.load_pending(device.system)
    assert stored and (stored.id, stored.stage) == (pending_update.id, UpdateStage.installed)
    monkeypatch.setattr(device.loader, "next_slot", lambda system: "a")
    with pytest.raises(Problem, match="the boot loader starts slot a next instead of b"):
        switch.switch_slot(device.context, pending_update, reboot=True)
    monkeypatch.undo()
    device.loader.slots["b"].staged = device.loader.slots["b"].entry = False
    with pytest.raises(Problem, match="slot b has no boot image"):
        switch.switch_pending(device.context, reboot=True)
    assert pending.load_pending(device.system) is None, "the update must be installed again"
    switch.switch_slot(device.context, put(device), reboot=True)
    assert (device.restarts, device.reboot()) == (1, "b")


def test_an_installed_bundle_is_not_written_again(device: Device) -> None:
    pending_update = put(device)
    again = install.plan_update(device.context, "http://other/path", manifest(), False, None)
    assert again == pending_update
    assert install.plan_update(device.context, "/b", manifest(), False, "something else").stage == UpdateStage.writing
    assert install.plan_update(device.context, "/b", manifest("1.2.0"), False, None).id != pending_update.id
    assert events(device)[-1] == "replaced"


def test_a_failed_installation_is_not_pending(device: Device) -> None:
    def fail() -> dict[str, Any]:
        raise Problem("its signature is not valid")

    with pytest.raises(Problem):
        install.write_slot(device.context, install.plan_update(device.context, "/b", manifest(), False, None), fail)
    assert pending.load_pending(device.system) is None
    assert (events(device), history.read_history(device.system)[-1]["why"]) == (
        ["started", "failed"],
        "its signature is not valid",
    )


def test_a_partial_download_is_kept_after_a_power_cut_and_removed_with_the_update(device: Device) -> None:
    metadata, bundle = (records.state_path(device.system, name) for name in records.DOWNLOAD)

    def fetch() -> None:
        metadata.write_text('{"identity": "x"}')
        bundle.write_bytes(b"half of it")

    fetch()
    pending.save_pending(device.system, install.plan_update(device.context, "http://x/b", manifest(), False, None))
    handle_boot(device.context)
    commit_update(device.context)
    assert events(device) == ["interrupted"]
    assert metadata.exists() and bundle.exists(), "the next installation continues it"
    device.reboot()
    handle_boot(device.context)
    assert not (metadata.exists() or bundle.exists()), "no installation continued it"
    switch.switch_slot(device.context, put(device), reboot=True)
    device.reboot()
    handle_boot(device.context)
    fetch()
    commit(device)
    assert not (metadata.exists() or bundle.exists())


def test_a_switch_can_be_withdrawn_before_the_reboot(device: Device) -> None:
    switch.switch_slot(device.context, put(device), reboot=False)
    assert device.restarts == 0
    rollback.roll_back(device.context, reboot=True)
    assert (device.restarts, device.reboot(), device.cluster.cordoned) == (0, "a", False)
    handle_boot(device.context)
    assert (pending.load_pending(device.system), events(device)[-1]) == (None, "withdrawn")


def test_a_manual_rollback_returns_to_the_good_slot_and_back(device: Device) -> None:
    handle_boot(device.context)
    commit_update(device.context)
    with pytest.raises(Problem, match="slot b has no bootable image"):
        rollback.roll_back(device.context, reboot=True)
    update(device)
    for slot, version in (("a", "1.0.0"), ("b", "1.1.0")):
        rollback.roll_back(device.context, reboot=True)
        assert f"rolling back to {version} in slot {slot}\nthe cluster data is kept" in device.said
        assert device.reboot() == slot
        handle_boot(device.context)
        commit(device)
        assert history.read_history(device.system)[-1]["kind"] == "rollback"
    assert minimum_version.read_minimum(device.system) == "1.1.0"


def test_rollback_needs_a_slot_that_was_good(device: Device) -> None:
    put(device)
    with pytest.raises(Problem, match=r"slot b contains 1\.1\.0, which was never booted"):
        rollback.roll_back(device.context, reboot=True)
    fall_back(device)
    with pytest.raises(Problem, match="slot b is marked as bad"):
        rollback.roll_back(device.context, reboot=True)
    assert device.restarts == 1  # the update's


def test_one_update_at_a_time(device: Device) -> None:
    pending_update = install.plan_update(device.context, "/b", manifest(), False, None)
    pending.save_pending(device.system, pending_update)
    assert status.update_status(device.context)["pending"]["outlook"].endswith("install it again")
    with update_lock(device.system):
        assert status.update_status(device.context)["pending"]["outlook"] == "is being written"
        with pytest.raises(Problem, match="another update is being installed") as caught:
            with update_lock(device.system):
                pytest.fail("two at a time")
        assert "process " in str(caught.value.hint)
    with update_lock(device.system):
        pass


def test_temporary_errors_are_retried_and_final_errors_are_not(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    errors: list[Reason] = []

    def action() -> str:
        if errors:
            raise Failure(errors.pop(0))
        return "done"

    lost, corrupt = Reason("lost", final=False), Reason("damaged", final=False, kind=CORRUPT)
    errors += [lost] * 8 + [corrupt]
    assert install.retry_until_deadline(device.context, "/b", 3600.0, action) == "done"
    assert [round(wait / 2**number) for number, wait in enumerate(slept[:5])] == [2] * 5
    assert max(slept) <= 75
    slept.clear()
    errors += [corrupt, corrupt, lost]
    with pytest.raises(Problem, match="damaged"):
        install.retry_until_deadline(device.context, "/b", 3600.0, action)
    slept.clear()
    errors[:] = [lost] * 100
    with pytest.raises(Problem, match="lost; the deadline has passed"):
        install.retry_until_deadline(device.context, "/b", 100.0, action)
    assert 30 < sum(slept) <= 100
    slept.clear()
    errors[:] = [lost, NO_TIME]
    with pytest.raises(Problem, match="the deadline has passed; the error before: lost"):
        install.retry_until_deadline(device.context, "/b", 100.0, action)
    errors[:] = [lost, Reason("no answer within 3 s", final=False)]
    slept.clear()
    with pytest.raises(Problem, match="no answer within 3 s; the error before: lost; the deadline has passed"):
        install.retry_until_deadline(device.context, "/b", 4.0, action)
    errors[:] = [Reason("unsigned")]
    with pytest.raises(Problem, match="unsigned"):
        install.retry_until_deadline(device.context, "/b", 3600.0, action)


def test_progress_is_text_for_people_and_json_for_scripts() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, terminal, machine = io.StringIO(), Terminal(), io.StringIO()
    reports: tuple[Progress, ...] = (ConsoleProgress(plain), ConsoleProgress(terminal), JsonProgress(machine))
    for progress in reports:
        for percent in (0, 1, 9, 10, 40, 41, 100):
            progress.report_progress(percent, "copying", 2_500_000)
        progress.report_event(ProgressEvent.installed, "done", seconds=1.5)
    assert plain.getvalue().count("copying") == 4
    assert terminal.getvalue().count("\n") == 2
    assert "\r 41 %  copying, 2.5 MB fetched" in terminal.getvalue()
    rows = [json.loads(line) for line in machine.getvalue().splitlines()]
    assert rows[0] == {"event": "progress", "percent": 0, "text": "copying", "fetched": 2_500_000}
    assert rows[-1] == {"event": "installed", "text": "done", "seconds": 1.5}


def test_explain_is_one_page_with_all_reasons(device: Device) -> None:
    fall_back(device, with_verdict=True)
    records.save_rows(device.system, install.LOG, [{"line": "installing `/b` succeeded"}], count=9, size=999)
    report = explain.collect_report(device.context)
    page = "\n".join(explain.page_lines(report))
    for part in (
        "fell back to slot a: slot b failed 3 tries", "minimum version",
        "1.0.0 -> 1.1.0 (slot b): health checks failed",
        "the last boot that failed its health checks (slot b, 1.1.0,", "BAD 50-node  not Ready",
        "slot b  1.1.0, try 3: NOT HEALTHY, in order", "installing `/b` succeeded", "cluster:  \"snapshot\"",
    ):  # fmt: skip
        assert part in page, part
    assert len(page.splitlines()) < 60
    assert json.loads(json.dumps(report)) == report
