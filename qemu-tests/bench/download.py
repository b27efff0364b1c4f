"""The share of a bundle that a device downloads for a small update, by part of the bundle."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.device import DeviceUnderTest, device_under_test
from bench.figure import Figure, Measured
from bench.layout import bundle_ranges, count_bytes
from bench.site import BenchSite
from osbuild.host import log

# Version -> what it changes, and the largest share of its bundle that may be downloaded, in percent.
STEPS: dict[str, tuple[str, float | None]] = {
    "overlay-only": ("one overlay file changed", 1),
    "package-only": ("one package added", 5),
    "next": ("a package, a kernel argument, a file", None),
}
LEAST = 0.02  # percent: smaller parts have no row of their own
MEANING = (
    "Version N runs from slot A as it was flashed, slot B is empty. The bundle of another version is installed from a "
    "web server. The figure is the bytes of the bodies that this server has sent, without headers, as a share of the "
    "bundle. The requested ranges show which parts of the bundle were sent."
)


@dataclass(frozen=True)
class Fetched:
    """One installation: bytes of the bundle, bytes that were sent, by part; and the agent's report."""

    size: int
    sent: int
    parts: dict[str, int]
    requests: int
    reported: dict[str, Any]

    def figures(self, name: str, title: str, target: float | None) -> Iterator[Figure]:
        """Yield the share of the bundle that was downloaded, then the share of each part, the largest first."""
        yield Figure(f"download_{name}", f"downloaded: {title}", 100 * self.sent / self.size, "%", target)
        for part, sent in sorted(self.parts.items(), key=lambda item: -item[1]):
            if (percent := 100 * sent / self.size) >= LEAST:
                yield Figure(f"download_{name}_{part}", f"  {part}", percent, "%")


def measure(site: BenchSite) -> Measured:
    """Install each version from the same saved state. Raises `Error`."""
    figures: list[Figure] = []
    metadata = {}
    with device_under_test(site, "light") as device:
        device.keep()
        for name, (title, target) in STEPS.items():
            device.device.restore()
            download = download_version(device, name, "--no-switch")
            figures += download.figures(name, title, target)
            metadata[name] = asdict(download)
    return Measured(figures, f"{MEANING} Flavour light: without a cluster.", {"versions": metadata})


def download_version(device: DeviceUnderTest, name: str, *options: str) -> Fetched:
    """Install the version `name`, and count the bytes that were sent. Raises `AssertionError` if it fails."""
    published, server = device.publish(name), device.device.site
    with log.step(f"installing {name}"), server.failing(server.fault):  # keeps the fault, but resets the counts
        events = device.device.install(published.url, *options)
        journal = server.journal
    ranges = [(request.first, request.sent) for request in journal.requests]
    reported = next(event for event in events if event["event"] == "installed")
    parts = dict(count_bytes(ranges, bundle_ranges(published.bundle)))
    return Fetched(published.bundle.stat().st_size, journal.total, parts, len(ranges), reported)
