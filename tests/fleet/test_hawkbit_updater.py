"""Devices with the real RAUC and rauc-hawkbit-updater install from our server."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from osbuild.sandbox.tools_tree import ToolsTree
from tests.support.hawkbit_updater import (
    HOST,
    PATIENCE,
    SLOT_SIZE,
    UpdaterDevice,
    make_rauc_bundle,
    running_device,
    updater_tools,
)
from tests.support.update_server import RunningServer, create_token, start_server

MIB = 2**20
GATEWAY = "gateway-token-of-tests"
INSTALLED, FAILED = "Software bundle installed successfully.", "Failed to install software bundle."


@dataclass(frozen=True)
class UpdaterFleet:
    """A server, and a device that is in turn each of the server's devices."""

    tools: ToolsTree
    server: RunningServer
    device: UpdaterDevice

    @property
    def address(self) -> str:
        """The address of the server, as the device has it."""
        return f"{HOST}:{self.server.port}"

    def target_token(self, name: str) -> str:
        return str(self.server.order(f"/devices/{name}/target-token", {})["token"])

    def make_bundle(self, name: str, image: bytes, **update: str) -> Path:
        path = self.device.folder / f"{name}.raucb"
        keys = load_keys(self.server.data.parent / "keys")
        make_rauc_bundle(self.tools, keys, path, f"1.0.0-{name}", image, **update)
        return path

    def slot(self, image: bytes) -> tuple[int, str]:
        """Return the SHA-256 of what the other slot has in place of `image`."""
        status, output = self.device.run(f"head -c {len(image)} /dev/loop1 | sha256sum")
        return status, output.split()[0]


pytestmark = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this host has no /dev/net/tun")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpdaterFleet]:
    folder = tmp_path_factory.mktemp("updater")
    tools = updater_tools()
    create_keys(folder / "keys", "Example", PrivateKeyAccess())
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGE_TEST_GATEWAY", GATEWAY)
        server = start_server(folder / "fleet", "--name", HOST, "--gateway-token", "env:EDGE_TEST_GATEWAY")
    shared = folder / "device"
    shared.mkdir()
    keyring, authority = load_keys(folder / "keys").keyring(), server.data / "tls/server-ca.crt"
    try:
        with running_device(tools, shared, keyring, authority, server.port) as device:
            yield UpdaterFleet(tools, server, device)
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0, server.process.communicate()


def image_of(size: int) -> bytes:
    return os.urandom(size)


def matches(image: bytes) -> tuple[int, str]:
    return 0, hashlib.sha256(image).hexdigest()


def test_a_target_token_and_a_downloaded_bundle(fleet: UpdaterFleet) -> None:
    name, image = "with-target-token", image_of(MIB)
    download = {"hawkbit_server": fleet.address, "target_name": name, "bundle_download_location": "/run/new.raucb"}
    update = fleet.device.configure({**download, "auth_token": "0" * 32})
    status, output = fleet.device.run(f"{update} -r")
    assert status == 1 and "Failed to authenticate" in output, output
    assert fleet.server.attributes(name) == {}, "the server has not registered it"

    update = fleet.device.configure({**download, "auth_token": fleet.target_token(name)})
    status, output = fleet.device.run(f"{update} -r")
    assert status == 0 and "No new software." in output, output
    assert fleet.server.attributes(name) == {"product": "kiosk", "note": "a b"}
    action = fleet.server.order_update(name, fleet.make_bundle("downloaded", image))
    status, output = fleet.device.run(f"{update} -r")
    assert status == 0 and "File checksum OK." in output and INSTALLED in output, output
    assert fleet.server.actions(name) == [(action, "finished")]
    messages = fleet.server.messages(name)
    assert messages[0] == INSTALLED and "File checksum OK." in messages
    assert fleet.slot(image) == matches(image)
    status, output = fleet.device.run(f"{update} -r; ls /run/new.raucb")
    assert "No new software." in output and "No such file" in output, output


def test_a_gateway_token_and_a_streamed_bundle(fleet: UpdaterFleet) -> None:
    name, image = "with-gateway-token", image_of(MIB)
    client = {"hawkbit_server": fleet.address, "target_name": name, "gateway_token": GATEWAY, "stream_bundle": "true"}
    update = fleet.device.configure(client)
    status, output = fleet.device.run(f"{update} -r")
    assert status == 0 and fleet.server.attributes(name)["product"] == "kiosk", output
    action = fleet.server.order_update(name, fleet.make_bundle("streamed", image))
    status, output = fleet.device.run(f"{update} -r")
    assert status == 0 and INSTALLED in output and "Start downloading" not in output, output
    assert fleet.server.actions(name) == [(action, "finished")] and fleet.slot(image) == matches(image)
    assert "nbd dl_size: count=" in (fleet.device.folder / "rauc.log").read_text(), "RAUC has read it in ranges"


@pytest.mark.parametrize("mode", ["downloaded", "streamed"])
def test_a_certificate_of_the_device(fleet: UpdaterFleet, tmp_path: Path, mode: str) -> None:
    name, image = f"with-certificate-{mode}", image_of(MIB)
    fleet.server.enrol(name, create_token(fleet.server), tmp_path).close()
    for suffix in ("crt", "key"):
        (fleet.device.folder / f"device.{suffix}").write_bytes((tmp_path / f"{name}.{suffix}").read_bytes())
    # RAUC's program that streams has the rights of the user nobody.
    copy = "cp device.crt device.key /run; chmod 644 /run/device.key"
    way = {"stream_bundle": "true"} if mode == "streamed" else {"bundle_download_location": "/run/new.raucb"}
    client = {"hawkbit_server": fleet.address, "target_name": name, **way}
    update = fleet.device.configure({**client, "ssl_cert": "/run/device.crt", "ssl_key": "/run/device.key"})
    action = fleet.server.order_update(name, fleet.make_bundle(f"certificate-{mode}", image))
    status, output = fleet.device.run(f"{copy}; {update} -r")
    assert status == 0 and INSTALLED in output, output
    assert fleet.server.actions(name) == [(action, "finished")] and fleet.slot(image) == matches(image)


def test_a_bundle_for_other_devices_is_a_reported_failure(fleet: UpdaterFleet) -> None:
    name = "of-another-kind"
    update = fleet.device.configure(
        {
            "hawkbit_server": fleet.address, "target_name": name, "auth_token": fleet.target_token(name),
            "bundle_download_location": "/run/new.raucb",
        }
    )  # fmt: skip
    bundle = fleet.make_bundle("other", image_of(MIB), compatible="edge-arm64")
    action = fleet.server.order_update(name, bundle)
    status, output = fleet.device.run(f"{update} -r")
    assert status == 1 and FAILED in output, output
    assert fleet.server.actions(name) == [(action, "failed")] and fleet.server.messages(name)[0] == FAILED
    assert any("ompatible" in message for message in fleet.server.messages(name)), fleet.server.messages(name)


def test_a_cancellation_while_the_bundle_is_downloaded_is_obeyed(fleet: UpdaterFleet) -> None:
    name, image = "is-cancelled", image_of((SLOT_SIZE - 8) * MIB)
    update = fleet.device.configure(
        {
            "hawkbit_server": fleet.address, "target_name": name, "auth_token": fleet.target_token(name),
            "bundle_download_location": "/run/new.raucb",
        }
    )  # fmt: skip
    action = fleet.server.order_update(name, fleet.make_bundle("cancelled", image))
    fleet.device.relay.pause = 0.04  # seconds for each 64 KiB: the updater polls every 5 seconds while it downloads
    running = fleet.device.begin(
        f"{update} > updater.log 2>&1 & updater=$!\nuntil [ -e stop ]; do sleep 0.2; done\n"
        "kill $updater; cat updater.log"
    )
    log, end = fleet.device.folder / "updater.log", time.monotonic() + PATIENCE
    while "Start downloading" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    with fleet.server.people() as people:
        assert people.delete(f"/devices/{name}/actions/{action}").json()["state"] == "cancelling"
    while fleet.server.actions(name) == [(action, "cancelling")]:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)
    (fleet.device.folder / "stop").touch()
    _, output = fleet.device.finish(running)
    fleet.device.relay.pause = 0.0
    assert fleet.server.actions(name) == [(action, "cancelled")], output
    assert f"Received cancelation for action {action}" in output and INSTALLED not in output
    assert fleet.server.messages(name)[0] == "Action canceled."
    assert fleet.slot(image) != matches(image)
