"""The failure matrix: every fault that starts from a healthy device (`failures.py` has the table)."""

import re
from pathlib import Path
from typing import Any

import pytest
from support import bad_bundles
from support.devices import Device
from support.failures import Case, bad_bundle, cases
from support.ledger import Ledger

QUICK = ("unsigned", "bit-flipped-tree", "older")
"""the bad bundles of `make test`: one for each thing that is checked, signature, contents and version"""


def parameters(cluster: bool) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases() if case.cluster == cluster]


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(cluster=False))
def test_after_a_fault_the_device_is_healthy(case: Case, light: Device, ledger: Ledger) -> None:
    run_case(case, light, ledger)


def run_case(case: Case, device: Device, ledger: Ledger) -> None:
    """Run one case from the saved state."""
    device.restore()
    with ledger.entry(case.group, f"{device.version.flavour}-{case.name}") as entry:
        case.cause(device)
        entry.seconds = device.seconds
        entry.standing = case.check(device)
        if case.again:
            device.install(device.publish("next"), "--no-reboot")
            assert device.reboot()["slot"] == "b"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in bad_bundles.BAD]
)
def test_a_bad_bundle_is_refused(name: str, light: Device, tmp_path: Path, ledger: Ledger) -> None:
    assert_refused(name, light, tmp_path, ledger)


@pytest.mark.slow
def test_an_older_version_is_installed_if_its_signer_permits_it(light: Device, tmp_path: Path, ledger: Ledger) -> None:
    """Only from the version that the signer names."""
    device, versions = light.restore(), light.versions
    old = versions.lookup("n")
    with ledger.entry("bundle", "light-downgrade") as entry:
        device.install(device.publish("next"), "--no-reboot")
        device.reboot()
        assert device.wait_settled().version == "1.1.0"
        refused = versions.sign(old, tmp_path / "other.raucb", downgrade="1.0.7")
        assert "may only replace 1.0.7" in device.install_refused(device.site.publish(refused, "other.raucb"))
        permitted = versions.sign(old, tmp_path / "permitted.raucb", downgrade="1.1.0")
        device.install(device.site.publish(permitted, "permitted.raucb"), "--no-reboot")
        assert device.reboot()["slot"] == "a"
        entry.standing = standing = device.wait_settled()
        assert (standing.version, standing.event, standing.slots) == (
            "1.0.0",
            "committed",
            {"a": "good", "b": "good"},
        ), standing
        assert device.explain()["update"]["floor"] == "1.0.0"
        device.check_intact()


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(cluster=True))
def test_after_a_fault_the_device_and_its_cluster_are_healthy(case: Case, server: Device, ledger: Ledger) -> None:
    run_case(case, server, ledger)


@pytest.mark.slow
@pytest.mark.parametrize("name", bad_bundles.CLUSTER)
def test_a_bundle_that_does_not_fit_the_cluster_is_refused(
    name: str, server: Device, tmp_path: Path, ledger: Ledger
) -> None:
    assert_refused(name, server, tmp_path, ledger)


def assert_refused(name: str, device: Device, folder: Path, ledger: Ledger) -> None:
    """Assert that a bad bundle is refused. The device is not restored between bundles, which must leave no trace."""
    bad_kind = {**bad_bundles.BAD, **bad_bundles.CLUSTER}[name]
    if not device.machine.running or device.read_standing().slot != "a":
        device.restore()
    before = device.read_standing()
    slot = device.node.run("head -c 67108864 /dev/edge/root-b | sha256sum")
    with ledger.entry("bundle", f"{device.version.flavour}-{name}") as entry:
        reason = bad_bundle(name, device, folder)
        assert re.search(bad_kind.reason, reason), reason
        entry.standing = after = device.read_standing()
        assert (after.slot, after.version, after.state) == ("a", "1.0.0", "good")
        assert (after.left, after.pending, after.healthy) == (None, None, True)
        assert after.event == ("failed" if bad_kind.touched else before.event)
        if not bad_kind.touched:
            assert after.slots == before.slots
            assert device.node.run("head -c 67108864 /dev/edge/root-b | sha256sum") == slot
        assert after.slots.get("b") in (None, "bad"), "nothing can boot it"
        device.check_intact()
