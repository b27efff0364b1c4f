"""Power cuts while a cluster goes to the next Kubernetes and back: cordon, snapshot, switch, migration, restore."""

from collections.abc import Iterator

import pytest
from cuts import survive
from devices import Device, Lab
from ledger import Ledger
from nodes import BOOT

pytestmark = pytest.mark.slow

INSTALLED, UPDATED = "installed", "updated"  # saved states
RUNS = {"a": "v1.35.4", "b": "v1.36.3"}
PATIENCE = 2.0


@pytest.fixture(scope="module")
def device(lab: Lab) -> Iterator[Device]:
    """N with a cluster, and N+1 in the other slot, not switched to."""
    with lab.ready("server", "cluster-cuts") as device:
        device.install(device.publish("next"), "--no-switch")
        device.machine.save(INSTALLED)
        yield device


def cuts(request: pytest.FixtureRequest) -> int:
    """Half as many as of a system without a cluster: each takes minutes."""
    return max(2, int(request.config.getoption("--cuts")) // 2)


def test_a_power_cut_on_the_way_to_the_next_kubernetes_loses_nothing(
    device: Device, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    def afterwards(slot: str) -> None:
        assert device.kubelet() == RUNS[slot]
        if slot == "a":
            device.node.run("edge-agent update switch --no-reboot", timeout=600)
            assert device.reboot(timeout=PATIENCE * BOOT)["slot"] == "b", "the switch can be repeated"

    with ledger.entry("power", "cluster-forth") as entry:
        survive(
            device, lambda: device.begin("edge-agent update switch"), cuts(request), entry.figures,
            {"a": ("installed",), "b": ("committed",)}, state=INSTALLED, patience=PATIENCE, afterwards=afterwards,
        )  # fmt: skip


def test_a_power_cut_on_the_way_back_loses_nothing(
    device: Device, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    def afterwards(slot: str) -> None:
        assert device.kubelet() == RUNS[slot]

    device.restore(INSTALLED)
    device.begin("edge-agent update switch")
    assert device.wait_complete(PATIENCE * BOOT)["slot"] == "b"
    device.settled(PATIENCE * 120)
    device.intact()
    device.machine.save(UPDATED)
    with ledger.entry("power", "cluster-back") as entry:
        survive(
            device, lambda: device.begin("edge-agent rollback"), cuts(request), entry.figures,
            {"a": ("committed",), "b": ("committed", "interrupted")}, state=UPDATED, patience=PATIENCE,
            afterwards=afterwards,
        )  # fmt: skip
