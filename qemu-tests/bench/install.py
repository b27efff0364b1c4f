"""The time of an installation on a device, against dd(1) that writes the same bytes to the same partitions."""

import shlex
import statistics
import time

from bench.device import DeviceUnderTest, device_under_test
from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.host import log

VERSION = "next"
TIMES = 3
MB = 10**6
FOLDER = "/var/lib/bench"
# File of a build -> its target in slot B.
TARGETS = {
    "root.erofs": "/dev/edge/root-b",
    "root.verity": "/dev/edge/root-b-verity",
    "edge-b.efi": "/efi/EFI/Linux/bench.partial",
}
MEANING = (
    f"Version {VERSION} is installed into the empty slot B of a device that runs N, without the switch: root, hash "
    "tree and boot image. The time of edge-osbuild is that of the whole command `edge-agent update install`, including "
    "the check of the signature and the records, from a file on the data partition and streamed from a web server. dd "
    "writes the same files from the data partition to the same two partitions and to the ESP: bs=1M conv=fsync. Every "
    f"run begins with the same saved state and empty caches; alternating, medians of {TIMES}. The agent hashes every "
    "block, and SHA-256 is slow under emulation: on hardware the ratio is smaller."
)


def measure(site: BenchSite) -> Measured:
    """Install from a file and streamed, and write with dd, alternately. Raises `Error`."""
    with device_under_test(site, "light") as device:
        published = device.publish(VERSION)
        build = published.bundle.parent
        size = sum((build / name).stat().st_size for name in TARGETS)
        for name in (*TARGETS, published.bundle.name):
            device.device.node.run(download_command(device.device.site.publish(build / name), name), timeout=600)
        device.keep()
        methods = {"file": f"{FOLDER}/{published.bundle.name}", "streamed": published.url}
        rounds: dict[str, list[float]] = {"file": [], "streamed": [], "dd": []}
        with log.step(f"{TIMES} times by turns"):
            for _ in range(TIMES):
                for method, source in methods.items():
                    rounds[method].append(time_install(device, source))
                rounds["dd"].append(time_dd(device))
    seconds = {method: statistics.median(times) for method, times in rounds.items()}
    return Measured(
        [
            Figure("install_time", "install from a file: time, against dd", seconds["file"] / seconds["dd"], "×"),
            Figure("install_rate", "  its rate", size / MB / seconds["file"], "MB/s"),
            Figure("install_streamed_rate", "  streamed", size / MB / seconds["streamed"], "MB/s"),
            Figure("install_dd_rate", "  dd's rate", size / MB / seconds["dd"], "MB/s"),
        ],
        MEANING,
        {"bytes": size, "rounds": rounds},
    )


def download_command(url: str, name: str) -> str:
    """Return a command that downloads a file to `FOLDER` and flushes it to the disk."""
    program = f"import urllib.request as r; r.urlretrieve({url!r}, {FOLDER + '/' + name!r})"
    return f"mkdir -p {FOLDER} && python3 -c {shlex.quote(program)} && sync"


def time_install(device: DeviceUnderTest, source: str) -> float:
    """Return the seconds of an installation that starts from the saved state."""
    restore_cold(device)
    begin = time.monotonic()
    device.device.install(source, "--no-switch")
    return time.monotonic() - begin


def time_dd(device: DeviceUnderTest) -> float:
    """Return the seconds that dd takes for the same files, from the saved state."""
    restore_cold(device)
    commands = [f"dd if={FOLDER}/{name} of={target} bs=1M conv=fsync status=none" for name, target in TARGETS.items()]
    begin = time.monotonic()
    device.device.node.run(" && ".join(commands), timeout=600)
    return time.monotonic() - begin


def restore_cold(device: DeviceUnderTest) -> None:
    """Restore the saved state, mount the ESP and drop the page cache (proc_sys_vm(5))."""
    device.device.restore()
    # The ESP is mounted when it is first used. Listing it keeps the mount out of the measured time.
    device.device.node.run("ls /efi > /dev/null; sync; echo 3 > /proc/sys/vm/drop_caches")
