"""Power cuts during a cluster's update to the next Kubernetes and its rollback: cordon, snapshot, switch, migration,
restore."""

import pytest
from support.devices import Device
from support.ledger import Ledger
from support.nodes import BOOT
from support.power_cuts import cut_power_repeatedly

pytestmark = pytest.mark.slow

UPDATED = "updated"  # a saved state
RUNS = {"a": 0, "b": -1}  # which of the distribution's releases
PATIENCE = 2.0


def case(device: Device) -> str:
    return device.version.flavour.replace("server", "cluster")


def cuts(request: pytest.FixtureRequest) -> int:
    """Return half the number of cuts, because each takes minutes with a cluster."""
    return max(2, int(request.config.getoption("--cuts")) // 2)


def test_a_power_cut_during_an_update_of_kubernetes_loses_nothing(
    server: Device, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    def afterwards(slot: str) -> None:
        assert server.kubelet() == server.distribution.releases[RUNS[slot]]
        if slot == "a":
            server.node.run("edge-agent update switch --no-reboot", timeout=600)
            assert server.reboot(timeout=PATIENCE * BOOT)["slot"] == "b", "the switch can be repeated"

    with ledger.entry("power", f"{case(server)}-forth") as entry:
        cut_power_repeatedly(
            server, lambda: server.start_command("edge-agent update switch"), cuts(request), entry.figures,
            {"a": ("installed",), "b": ("committed",)}, patience=PATIENCE, afterwards=afterwards,
        )  # fmt: skip


def test_a_power_cut_during_the_rollback_loses_nothing(
    server: Device, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    def afterwards(slot: str) -> None:
        assert server.kubelet() == server.distribution.releases[RUNS[slot]]

    server.restore()
    server.start_command("edge-agent update switch")
    assert server.wait_complete(PATIENCE * BOOT)["slot"] == "b"
    server.wait_settled(PATIENCE * 120)
    server.check_intact()
    server.machine.save(UPDATED)
    with ledger.entry("power", f"{case(server)}-back") as entry:
        cut_power_repeatedly(
            server, lambda: server.start_command("edge-agent rollback"), cuts(request), entry.figures,
            {"a": ("committed",), "b": ("committed", "interrupted")}, state=UPDATED, patience=PATIENCE,
            afterwards=afterwards,
        )  # fmt: skip
