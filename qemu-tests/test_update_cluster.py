"""An update of a node to the next Kubernetes, and the rollback. The tests share one machine; their order matters."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.devices import Device
from support.nodes import BOOT, KUBECTL

pytestmark = [pytest.mark.slow, pytest.mark.matrix("cluster")]


@pytest.fixture(scope="module")
def device(server: Device) -> Device:
    return server.restore()


def last_event(device: Device, event: str) -> dict[str, Any]:
    """Return the last event of that name in the history."""
    rows = json.loads(device.node.run("edge-agent update history --json"))
    event_row: dict[str, Any] = next(row for row in reversed(rows) if row["event"] == event)
    return event_row


def test_an_update_brings_the_next_kubernetes_and_keeps_every_object(device: Device) -> None:
    assert device.kubelet() == device.distribution.releases[0]
    url = device.publish("next")
    device.machine.console.skip()
    events = device.install(url)
    messages = [event["text"] for event in events if event["event"] == "cluster"]
    assert any("cordoned" in text for text in messages) and any("snapshot" in text for text in messages), messages
    assert device.wait_complete(2 * BOOT)["slot"] == "b"
    standing = device.wait_settled(600)
    assert (standing.version, standing.slots) == ("1.1.0", {"a": "good", "b": "good"}), standing
    assert device.kubelet() == device.distribution.releases[-1]
    assert last_event(device, "switched")["cluster"]["snapshot"]
    device.check_intact()


def test_a_kubernetes_that_is_older_is_refused_before_anything_is_written(device: Device, tmp_path: Path) -> None:
    """Even if the bundle has a newer version."""
    older = device.versions.sign(
        device.versions.lookup("n", device.version.flavour), tmp_path / "older.raucb", version="1.2.0"
    )
    assert f"older than {device.distribution.releases[-1]}" in device.install_refused(
        device.site.publish(older, "older.raucb")
    )
    assert device.read_standing().slots == {"a": "good", "b": "good"}


def test_a_rollback_restores_the_cluster_as_it_was_and_says_what_was_lost(device: Device) -> None:
    device.node.kubectl("create configmap later --from-literal=when=after")
    device.machine.console.skip()
    device.node.guest.run("sudo edge-agent rollback", check=False, timeout=600)
    assert device.wait_complete(2 * BOOT)["slot"] == "a"
    standing = device.wait_settled(600)
    assert standing.version == "1.0.0", standing
    assert device.kubelet() == device.distribution.releases[0]
    device.check_intact()
    if not device.distribution.changes_minor:
        device.node.kubectl("get configmap later")  # releases of one minor version can use each other's data
        return
    device.node.run_failing(f"{KUBECTL} get configmap later")
    assert "later" in json.dumps(device.explain()["history"]), "what was lost is written down"


def test_a_restore_needs_a_stopped_kubernetes(device: Device) -> None:
    """The command that the error names suffices, although services of the target are still stopping when it returns."""
    name = device.node.run("edge-agent kubernetes snapshot").partition(",")[0]
    refusal = device.node.run_failing(f"edge-agent kubernetes restore {name}")
    assert "Kubernetes is running: " in refusal, refusal
    assert "`systemctl stop kubernetes.target`" in refusal, refusal
    output = device.node.run(f"systemctl stop kubernetes.target && edge-agent kubernetes restore {name}", timeout=300)
    assert "is restored" in output, output
    device.node.run("systemctl start kubernetes.target", timeout=BOOT)
    device.check_intact()


def test_a_power_cut_after_a_rollback_changes_nothing_more(device: Device) -> None:
    device.cut_power()
    assert device.power_on(2 * BOOT)["slot"] == "a"
    assert device.wait_settled(600).version == "1.0.0"
    device.check_intact()
