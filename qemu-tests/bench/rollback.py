"""The time from the failure of a new version until the node of the old version is Ready."""

import re
import threading
import time
from dataclasses import dataclass, field

from support.failures import ONE_TRY

from bench.device import DeviceUnderTest, device_under_test
from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.host import log
from osbuild.qemu.serial import strip_controls
from osbuild.shared.errors import Error

WAIT = 3600.0  # seconds, under emulation
# Version -> its fault, and the line of the console when it fails (a regular expression).
FAULTS = {
    "panic": ("its kernel panics", r"Kernel panic - not syncing"),
    "unhealthy": ("a health check fails", r"edge-osbuild: boot failed: "),
    "never-ready": ("its node never becomes Ready", r"edge-osbuild: boot failed: "),
}
BACK = r"edge-osbuild: boot complete: \S+ \S+ slot a "
MEANING = (
    "A node with a cluster switches to a broken version. A kernel that panics does so at each of three tries, and the "
    "time begins at the first panic. The other failures wait for the profile's health deadline at every try; that wait "
    "is configured, so the time begins at the verdict on the last try (and the new slot gets only one try). The time "
    "ends at the old slot's `boot complete`, which requires that the node is Ready."
)


@dataclass
class ConsoleMoments:
    """Watches the console: `moments` is when a line matched each of `patterns`, by time.monotonic()."""

    patterns: dict[str, str]
    moments: dict[str, list[float]] = field(default_factory=dict)
    _text: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, data: bytes) -> None:
        """Called in the thread that reads the console."""
        now = time.monotonic()
        with self._lock:
            *lines, self._text = (self._text + data.decode(errors="replace")).split("\n")
            for line in lines:
                for name, pattern in self.patterns.items():
                    if re.search(pattern, strip_controls(line)):
                        self.moments.setdefault(name, []).append(now)


def measure(site: BenchSite) -> Measured:
    """Let each faulty version fail, from the same saved state. Raises `Error`."""
    figures, metadata = [], {}
    with device_under_test(site, "server") as device:
        device.keep()
        for name, (title, pattern) in FAULTS.items():
            with log.step(f"a version that fails: {title}"):
                watch = fail_version(device, name, pattern)
            failed, back = watch.moments["failed"], watch.moments["back"][-1]
            figures.append(Figure(f"rollback_{name}", f"failure to old slot Ready: {title}", back - failed[0], "s"))
            metadata[name] = {"failures": [moment - failed[0] for moment in failed], "back": back - failed[0]}
    return Measured(figures, MEANING, {"rollbacks": metadata})


def fail_version(device: DeviceUnderTest, name: str, pattern: str) -> ConsoleMoments:
    """Switch to the faulty version, and wait for the fallback. Raises `Error` if the version did not fail."""
    under_test = device.device
    published = device.publish(name)
    under_test.restore()
    under_test.install(published.url, "--no-reboot")
    if name != "panic":
        under_test.node.run(ONE_TRY)
    watch = ConsoleMoments({"failed": pattern, "back": BACK})
    under_test.machine.line.listen(watch.hear)
    under_test.fall_back(WAIT)
    status = under_test.wait_settled(600)
    if status.slot != "a" or not watch.moments.keys() >= {"failed", "back"}:
        raise Error(f"version {name} has not failed as it should: {status}", where=str(under_test.machine.console.path))
    return watch
