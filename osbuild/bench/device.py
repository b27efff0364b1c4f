"""A device under test: the versions, the machine and the web server of the tests in qemu-tests/, for a measurement.

They are modules, not a package, which pytest finds by a path of its own: this is the one place that does the same here.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osbuild import log, paths
from osbuild.bench.site import Site
from osbuild.board import load
from osbuild.errors import Error
from osbuild.qemu.accel import choose
from osbuild.qemu.emulator import emulator

if TYPE_CHECKING:
    from devices import Device

TESTS = paths.PROJECT / "qemu-tests"
BOARD = "x86_64"


@dataclass(frozen=True)
class Published:
    """A bundle, and where the device finds it."""

    bundle: Path
    url: str


@dataclass(frozen=True)
class Trial:
    """A device that runs version N from slot a and was found well."""

    device: "Device"

    def keep(self) -> None:
        """Keep the state that it is in now, for `Device.restore`."""
        import devices

        self.device.machine.save(devices.READY)

    def publish(self, name: str) -> Published:
        """Build the version of that name, if it is not there, and serve its bundle."""
        device = self.device
        with log.step(f"version {name}, {device.version.flavour}"):
            bundle = device.versions.get(name, device.version.flavour).bundle
        return Published(bundle, device.site.publish(bundle, f"{name}.raucb"))


@contextmanager
def trial(site: Site, flavour: str) -> Iterator[Trial]:
    """Boot version N of `flavour` (light or server) under TCG, as all boots here are, and wait until it is well.

    The versions are made in build/test-versions, the console's log is with the tests'. Raises `Error`, also for what
    the device's methods assert.
    """
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    import devices
    import faulty
    from nodes import LOGS_FOLDER
    from versions import Versions

    folder = Path(tempfile.mkdtemp(prefix=f"{flavour}-", dir=site.folder))  # a seed names the port of one web server
    try:
        versions = Versions(load(BOARD), cache=site.cache)
        with log.step(f"version n, {flavour}"):
            first = versions.get("n", flavour, bundle=False)
        qemu = emulator(versions.board.architecture, site.cache)
        accelerator = choose(versions.board, "tcg", wrap=qemu.wrap, root=qemu.root)
        with faulty.Site(folder) as server:
            lab = devices.Lab(versions, server, site.key(), accelerator, folder)
            with lab.powered(first, f"bench-{flavour}") as device:
                with log.step(f"first boot of version n, {flavour}"):
                    devices.prepare(device)
                yield Trial(device)
    except AssertionError as error:
        hint = f"the console's log is {paths.display(LOGS_FOLDER)}/bench-{flavour}-{BOARD}.log"
        raise Error(f"the device does not do what it should: {error}", hint=hint) from error
