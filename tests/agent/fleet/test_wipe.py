"""A device that wipes itself: what is destroyed at once, and what a power cut leaves."""

from pathlib import Path

import pytest

from osbuild.agent.fleet.wipe import MARK, SECRET_FOLDERS, wipe_device
from osbuild.agent.system import System
from osbuild.host.paths import PROJECT
from tests.support.cuts import Cut

SCRIPT = PROJECT / "overlays/base/usr/lib/edge-osbuild/mount-state"
KEY = "var/lib/edge-fleet/device.key"


def filled(root: Path) -> System:
    system = System(root)
    for name in (*SECRET_FOLDERS, "/var/lib/containerd"):
        path = system.path(name) / "inner/secret"
        path.parent.mkdir(parents=True)
        path.write_text("secret")
    (root / KEY).write_text("key")
    (root / "outside").mkdir()
    (root / "outside/file").write_text("kept")
    (root / "var/lib/edge-fleet/link").symlink_to(root / "outside")
    return system


def test_the_server_is_told_before_the_keys_are_destroyed_and_the_reboot_is_last(tmp_path: Path) -> None:
    system, steps = filled(tmp_path), []

    def announce() -> None:
        assert (tmp_path / KEY).exists() and system.path(MARK).exists()
        steps.append("announce")

    def reboot() -> None:
        assert not [name for name in SECRET_FOLDERS if system.path(name).exists()]
        steps.append("reboot")

    wipe_device(system, announce, reboot)
    assert steps == ["announce", "reboot"]
    assert (tmp_path / "outside/file").read_text() == "kept", "links are not followed"
    assert system.path("/var/lib/containerd").exists(), "the next boot formats the data partition"


def test_a_wipe_goes_on_at_the_next_boot_if_the_power_fails_after_the_mark(tmp_path: Path) -> None:
    def announce() -> None:
        raise Cut

    with pytest.raises(Cut):
        wipe_device(filled(tmp_path), announce, lambda: None)
    assert f"[ -e {MARK} ]" in SCRIPT.read_text(), "the initrd looks for the mark"
    assert System(tmp_path).path(MARK).exists()
