"""A device under test: the versions, the machine and the web server of the tests, for a measurement."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import devices, faulty_server
from support.devices import Device
from support.nodes import LOGS_FOLDER
from support.versions import Versions

from bench.site import BenchSite
from osbuild.config.board import load_board
from osbuild.host import log, paths
from osbuild.qemu.acceleration import choose_accelerator
from osbuild.qemu.emulator import find_emulator
from osbuild.shared.errors import Error

BOARD = "x86_64"


@dataclass(frozen=True)
class Published:
    """A bundle and the URL from which the device installs it."""

    bundle: Path
    url: str


@dataclass(frozen=True)
class DeviceUnderTest:
    """A device that runs version N from slot A and has passed its health checks."""

    device: Device

    def keep(self) -> None:
        """Save the current state of the machine, for `Device.restore`."""
        self.device.machine.save(devices.READY)

    def publish(self, name: str) -> Published:
        """Build the version of that name, unless it exists, and serve its bundle."""
        device = self.device
        with log.step(f"version {name}, {device.version.flavour}"):
            bundle = device.versions.get(name, device.version.flavour).bundle
        return Published(bundle, device.site.publish(bundle, f"{name}.raucb"))


@contextmanager
def device_under_test(site: BenchSite, flavour: str) -> Iterator[DeviceUnderTest]:
    """Boot version N of `flavour` (light or server) under TCG, and wait until it is healthy.

    The versions are built in build/test-versions, and the console's log is stored with those of the tests. Raises
    `Error`, also if an assertion of the device's methods fails.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{flavour}-", dir=site.folder))  # a seed names the port of one web server
    try:
        versions = Versions(load_board(BOARD), cache=site.cache)
        with log.step(f"version n, {flavour}"):
            first = versions.get("n", flavour, bundle=False)
        qemu = find_emulator(versions.board.architecture, site.cache)
        accelerator = choose_accelerator(versions.board, "tcg", wrap=qemu.wrap, root=qemu.root)
        with faulty_server.Site(folder) as server:
            lab = devices.Lab(versions, server, site.key(), accelerator, folder)
            with lab.powered(first, f"bench-{flavour}") as device:
                with log.step(f"first boot of version n, {flavour}"):
                    devices.prepare_device(device)
                yield DeviceUnderTest(device)
    except AssertionError as error:
        hint = f"the console's log is {paths.display_path(LOGS_FOLDER)}/bench-{flavour}-{BOARD}.log"
        raise Error(f"the device does not do what it should: {error}", hint=hint) from error
