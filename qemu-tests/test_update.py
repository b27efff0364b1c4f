"""One update, one power cut and one rollback on every board. The tests share one device and depend on their order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.devices import Device, Lab, raw_disk
from support.failures import bad_bundle
from support.nodes import BOOT

from osbuild.formats import gpt
from osbuild.host.cache import file_digest

pytestmark = pytest.mark.matrix("update")


@pytest.fixture(scope="module")
def other(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with the same partitions and GUIDs as the device's, but another root in slot A."""
    path = raw_disk(lab.versions.get("n", "light", bundle=False), tmp_path_factory.mktemp("other") / "disk.img")
    root = next(partition for partition in gpt.read_table(path).partitions if partition.name == "root-a")
    with path.open("r+b") as file:
        file.seek(root.offset)
        file.write(b"another root" * 1000)
    return path


@pytest.fixture(scope="module")
def device(lab: Lab, other: Path) -> Iterator[Device]:
    before = file_digest(other)
    with lab.ready("light", "update", other=other) as device:
        yield device
    assert file_digest(other) == before, "a disk was written to that was not booted"


def test_a_power_cut_while_the_slot_is_written_changes_nothing(device: Device) -> None:
    url = device.publish("next")
    device.start_install(url, "--no-reboot")
    device.node.wait_until("test -s /var/lib/edge-osbuild/update/pending.json", 120 * device.slowness)
    device.cut_power()
    assert device.power_on()["slot"] == "a"
    standing = device.wait_settled()
    assert (standing.slot, standing.version, standing.event) == ("a", "1.0.0", "interrupted"), standing
    device.check_intact()


@pytest.mark.slow  # `make test` has an update in test_fleet
def test_an_update_is_installed_tried_and_kept(device: Device) -> None:
    url = device.publish("next")
    device.machine.console.skip()
    events = device.install(url)
    assert [event["event"] for event in events if event["event"] in ("installed", "switched", "reboot")] == [
        "installed", "switched", "reboot",
    ]  # fmt: skip
    match = device.wait_complete(BOOT)
    assert (match["version"], match["slot"]) == ("1.1.0", "b")
    standing = device.wait_settled()
    assert (standing.slot, standing.version, standing.slots) == ("b", "1.1.0", {"a": "good", "b": "good"}), standing
    assert standing.event == "committed"
    assert "test.image=next" in device.node.run("cat /proc/cmdline").split()
    assert device.node.run("cat /usr/lib/edge-osbuild-test/release").strip() == "two of two"
    assert device.node.run("command -v tree").strip() == "/usr/bin/tree"
    assert device.explain()["update"]["floor"] == "1.1.0"
    device.check_intact()


@pytest.mark.slow
def test_what_is_older_than_what_was_good_or_would_lock_it_out_is_refused(device: Device, tmp_path: Path) -> None:
    url = device.publish("n")
    assert "older than the minimum version 1.1.0" in device.install_refused(url)
    assert "none of the roots that this device trusts" in bad_bundle("other-roots", device, tmp_path)
    assert device.read_standing().slots == {"a": "good", "b": "good"}


@pytest.mark.slow
def test_a_power_cut_and_a_reboot_of_a_good_slot_are_not_failures(device: Device) -> None:
    device.cut_power()
    assert device.power_on()["slot"] == "b"
    assert device.reboot()["slot"] == "b"
    standing = device.wait_settled()
    assert (standing.state, standing.left, standing.event) == ("good", None, "committed"), standing


@pytest.mark.slow
def test_a_rollback_by_hand_brings_back_the_other_slot(device: Device) -> None:
    device.machine.console.skip()
    device.node.guest.run("sudo edge-agent rollback", check=False, timeout=600)
    assert device.wait_complete(BOOT)["slot"] == "a"
    standing = device.wait_settled()
    assert (standing.slot, standing.version, standing.event) == ("a", "1.0.0", "committed"), standing
    assert device.explain()["update"]["last"]["kind"] == "rollback"
    device.check_intact()


def test_a_new_version_that_panics_falls_back_after_its_tries(device: Device) -> None:
    url = device.publish("panic")
    device.install(url, "--no-reboot")
    device.fall_back(3 * BOOT)
    standing = device.wait_settled()
    assert (standing.slot, standing.version, standing.event) == ("a", "1.0.0", "rolled-back"), standing
    assert "boot image, kernel or root file system failed" in standing.why
    assert standing.slots == {"a": "good", "b": "bad"}, standing
    device.check_intact()
