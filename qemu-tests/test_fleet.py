"""A fleet: two devices that follow an update server, all real. The tests share them and depend on their order."""

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.devices import Device, Lab, prepare_device
from support.faulty_server import GUEST
from support.nodes import BOOT, make_seed
from support.versions import Versions

from tests.support.update_server import RunningServer, create_token, start_server

NODES = ("device-1", "device-2")
LARGEST_CLIENT = 20_000_000  # bytes of resident memory of the unprivileged part, with the libraries that it shares


@pytest.fixture(scope="module")
def fleet(versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """An update server that guests reach, with the keys of the versions under test."""
    data = tmp_path_factory.mktemp("fleet") / "data"
    server = start_server(data, "--name", GUEST, "--poll", "5", keys=versions.keys.folder)
    yield server
    server.process.terminate()
    assert server.process.wait(30) == 0


@pytest.fixture(scope="module")
def devices(lab: Lab, fleet: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Device]]:
    """Two devices whose seeds name the update server, and have tokens for it."""
    folder = tmp_path_factory.mktemp("tokens")
    version = lab.versions.get("n", bundle=False)
    with ExitStack() as stack:
        devices = []
        for node in NODES:
            seed_for(node, lab, fleet, folder / node)
            device = stack.enter_context(lab.powered(version, f"fleet-{node}"))
            prepare_device(device)  # one after the other: an idle device needs no processor
            devices.append(device)
        yield devices


def seed_for(node: str, lab: Lab, fleet: RunningServer, token: Path) -> None:
    """Make the seed that `Lab.powered` uses."""
    token.write_text(create_token(fleet))
    settings = [
        f"agent.server=https://{GUEST}:{fleet.port}", "agent.offline=false", f"agent.enrolment=file:{token}",
        f"agent.authority=file:{fleet.data}/tls/server-ca.crt", "agent.requests=[diagnostics, reboot, rotate, wipe]",
    ]  # fmt: skip
    make_seed(lab.versions.profile("n", "light"), node, lab.key, lab.folder / f"fleet-{node}.iso", settings=settings)


def wait_for(value: Callable[[], object], expected: object, timeout: float) -> None:
    """Wait until `value` returns `expected`."""
    end = time.monotonic() + timeout
    while (found := value()) != expected:
        assert time.monotonic() < end, f"after {timeout:g} s: {found!r}, not {expected!r}"
        time.sleep(1)


def test_devices_enrol_by_themselves_and_say_what_they_are(devices: Sequence[Device], fleet: RunningServer) -> None:
    for name in NODES:
        wait_for(lambda name=name: fleet.attributes(name).get("version"), "1.0.0", 120)  # type: ignore[misc]
        assert fleet.attributes(name)["slot"] == "a"
    node = devices[0].node
    assert node.run("stat -c '%U %a' /var/lib/edge-fleet/device.key").strip() == "edge-fleet 600"
    process = node.run("systemctl show -P MainPID edge-fleet.service").strip()
    assert node.run(f"ps -o user= -p {process}").strip() == "edge-fleet"


def test_a_broken_version_pauses_the_rollout_and_a_good_one_reaches_all(
    devices: Sequence[Device], fleet: RunningServer
) -> None:
    first = devices[0]
    broken, good = (fleet.publish(first.versions.get(name).bundle) for name in ("panic", "next"))
    first.machine.console.skip()
    fleet.create_rollout("winter", broken, 50, 50)
    assert first.wait_complete(4 * BOOT)["slot"] == "a"
    wait_for(lambda: fleet.rollout("winter")["state"], "paused", 120)
    reason = "group 1: 1 of 1 devices have failed; the limit is 1 %"
    assert fleet.rollout("winter")["reason"] == reason and reason in fleet.page_text("/rollouts/winter")
    ((_, state),) = fleet.actions(NODES[0])
    message = fleet.messages(NODES[0])[0]
    assert state == "failed" and message.startswith("rolled-back: "), fleet.messages(NODES[0])
    assert message in fleet.page_text(f"/devices/{NODES[0]}")
    assert fleet.actions(NODES[1]) == [], "the second group did not begin"
    assert first.read_standing().slots == {"a": "good", "b": "bad"}

    for device in devices:
        device.machine.console.skip()
    fleet.resume_rollout("winter", good)
    for device in devices:
        match = device.wait_complete(BOOT + 300)
        assert (match["version"], match["slot"]) == ("1.1.0", "b")
    wait_for(lambda: fleet.rollout("winter")["state"], "finished", 180)
    for name, device in zip(NODES, devices, strict=True):
        assert fleet.actions(name)[0][1] == "finished" and fleet.messages(name)[0] == "1.1.0 is committed"
        wait_for(lambda name=name: fleet.attributes(name).get("version"), "1.1.0", 120)  # type: ignore[misc]
        device.check_intact()
    assert [group["state"] for group in fleet.rollout("winter")["groups"]] == ["succeeded", "succeeded"]


def test_the_client_needs_little_memory(devices: Sequence[Device]) -> None:
    node = devices[1].node
    process = node.run("systemctl show -P MainPID edge-fleet.service").strip()
    resident = int(node.run(f"ps -o rss= -p {process}"))
    assert resident * 1024 <= LARGEST_CLIENT, f"{resident} KiB"


def request_of(fleet: RunningServer, node: str, kind: str) -> int:
    """Request something of a device, and return the number of the request."""
    return int(fleet.order(f"/devices/{node}/requests", {"kind": kind})["id"])


def wait_for_request(fleet: RunningServer, number: int, timeout: float) -> list[str]:
    """Wait until a request has succeeded, and return what the device says about it."""
    with fleet.people() as people:
        wait_for(lambda: people.get(f"/requests/{number}").json()["state"], "succeeded", timeout)
        return list(people.get(f"/requests/{number}").json()["details"])


def test_an_operator_gets_diagnostics_without_secrets(devices: Sequence[Device], fleet: RunningServer) -> None:
    devices[0].node.run("logger 'connects with password=planted-secret to https://ann:planted-secret@host/'")
    number = request_of(fleet, NODES[0], "diagnostics")
    wait_for_request(fleet, number, 300)
    with fleet.people() as people:
        content = people.get(f"/requests/{number}/diagnostics").content
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        texts = {name.removeprefix("diagnostics/"): file.read().decode() for name, file in files.items() if file}
    assert "connects with password=…" in texts["journal.txt"]
    assert not [name for name, text in texts.items() if "planted-secret" in text or "PRIVATE KEY-----" in text]
    assert "slot        b" in texts["explain.txt"] and "edge-fleet.service" in texts["units.txt"]
    assert not [name for name, text in texts.items() if "cannot be started" in text]


@pytest.mark.slow
def test_an_operator_gives_a_device_a_new_key_and_reboots_it(devices: Sequence[Device], fleet: RunningServer) -> None:
    device = devices[0]
    key = device.node.run("sha256sum /var/lib/edge-fleet/device.key")
    wait_for_request(fleet, request_of(fleet, NODES[0], "rotate"), 120)
    assert device.node.run("sha256sum /var/lib/edge-fleet/device.key") != key
    device.machine.console.skip()
    number = request_of(fleet, NODES[0], "reboot")
    assert device.wait_complete(BOOT)["slot"] == "b"
    assert wait_for_request(fleet, number, 120) == ["the device has restarted, in slot b"]
    device.check_intact()


@pytest.mark.slow
def test_an_operator_wipes_a_device(devices: Sequence[Device], fleet: RunningServer) -> None:
    device = devices[1]
    device.node.run("echo precious > /var/lib/precious && sync")
    identity = device.node.run("cat /etc/machine-id")
    device.machine.console.skip()
    wait_for_request(fleet, request_of(fleet, NODES[1], "wipe"), 120)
    assert fleet.is_decommissioned(NODES[1])
    device.wait_complete(BOOT)
    assert device.node.run("cat /etc/machine-id") != identity
    device.node.run_failing("ls /var/lib/precious /var/lib/edge-fleet/device.crt")
