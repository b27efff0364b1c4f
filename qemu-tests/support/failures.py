"""The failure matrix: each fault, how it is caused, and what must hold afterwards.

`test_update_matrix.py` runs the cases; each begins with a device that runs N from slot A, healthy, with data and, on
`server`, a cluster with objects.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support import bad_bundles
from support.devices import Device, Standing
from support.faulty_server import Fault, Site
from support.nodes import BOOT

# Seconds until the deadline of health checks, without a cluster and with one, as in the profiles.
DEADLINE = {False: 200.0, True: 480.0}
TRIAL = {False: 200.0, True: 300.0}  # the same, of a faulty version
BOOT_OVERHEAD = 150.0  # and the time before and after: firmware, kernel, the guard's minute, shutdown
# Faults that get all three tries: those that fail early, and without a cluster (five minutes a try, not ten) also one
# with a failed verdict and one without a verdict. All others get one try.
EARLY_FAILURES = ("panic", "panic-initrd", "root-lost", "hung")
THREE_TRIES = {False: (*EARLY_FAILURES, "unhealthy", "reboot-loop"), True: EARLY_FAILURES}
MIGRATED = ("unhealthy", "stuck", "never-ready", "no-containerd")
# As if two tries had been used (systemd-boot(7), "Boot Counting").
ONE_TRY = r"""cd /efi/EFI/Linux && for file in edge-*-b+3.efi; do mv "$file" "${file%+3.efi}+1-2.efi"; done && sync"""
MIDDLE = 150_000  # bytes, about the middle of a download, because the device has most blocks already


@dataclass(frozen=True)
class Case:
    """One fault, and what must hold afterwards.

    `cause` injects it, and returns when the device is idle again. Then `slot` runs and is good; `event` and `why` (re)
    are the update's last event and its reason; `other` is the state of the other slot, None if it is not checked.
    `group` is the section of the matrix.
    """

    group: str
    name: str
    cause: Callable[[Device], None]
    slot: str = "a"
    event: str = "rolled-back"
    why: str = ""
    other: str | None = None
    cluster: bool = False
    """whether the case needs a cluster"""
    again: bool = False
    """whether a good update is installed afterwards"""
    restored: bool = False
    """whether the datastore must be restored from the snapshot, because the newer Kubernetes has changed it"""

    def check(self, device: Device) -> Standing:
        """Assert everything that must hold."""
        standing = device.wait_settled(240)
        assert standing.slot == self.slot, standing
        expected = device.versions.lookup("next" if self.slot == "b" else "n", device.version.flavour).version
        assert standing.version == expected, standing
        assert standing.healthy and standing.state == "good" and standing.left is None, standing
        assert standing.event == self.event, standing
        assert re.search(self.why, standing.why), f"{self.why!r} is not in {standing.why!r}"
        if self.other:
            assert standing.slots.get("b" if self.slot == "a" else "a") == self.other, standing
        if self.restored:
            assert device.explain()["update"]["last"]["cluster"]["restored"]["snapshot"]
        device.check_intact()
        return standing


# --- a faulty image


def install_broken(name: str) -> Callable[[Device], None]:
    """Return a function that installs a faulty version, and waits until the device runs the old one again."""

    def cause(device: Device) -> None:
        version = device.versions.get(name, device.version.flavour)
        device.install(device.site.publish(version.bundle, f"{name}.raucb"), "--no-reboot", "--fetch", "parts")
        for image in ("disk.img", "disk.img.zst"):
            (version.build / image).unlink(missing_ok=True)  # a gigabyte; only the bundle is needed
        tries = 3
        if name not in THREE_TRIES[device.cluster]:
            device.node.run(ONE_TRY)
            tries = 1
        device.case_start = time.monotonic()
        trials = tries * (TRIAL[device.cluster] + BOOT_OVERHEAD)
        device.fall_back(trials + BOOT)
        assert device.seconds < trials + DEADLINE[device.cluster] + BOOT_OVERHEAD, "within the deadline"

    return cause


REASONS: Mapping[str, str] = {
    "panic": "boot image, kernel or root file system failed",
    "panic-initrd": "boot image, kernel or root file system failed",
    "root-lost": "boot image, kernel or root file system failed",
    "hung": "boot image, kernel or root file system failed|no verdict",
    "stuck": "health checks failed: .*10-systemd",
    "no-network": "health checks failed: .*30-agent",
    "no-containerd": "health checks failed: .*40-containerd",
    "never-ready": "health checks failed: .*50-node",
    "agent-crash": "did not reach the edge agent",
    "reboot-loop": "no verdict",
    "unhealthy": "health checks failed: .*99-till: the till does not answer",
}


def damage_boot_image(device: Device) -> None:
    """Damage the new slot's boot image, so that the boot loader skips it and starts the other slot at once."""
    device.install(device.publish("next"), "--no-reboot")
    device.node.run("dd if=/dev/zero of=$(ls /efi/EFI/Linux/edge-*-b+3.efi) bs=4096 count=1 conv=notrunc,fsync")
    assert device.reboot()["slot"] == "a"


# --- the network


def install_during(interfere: Callable[[Site], None], *options: str, after: int = MIDDLE) -> Callable[[Device], None]:
    """Return a function that installs N+1, and calls `interfere` once the server has sent `after` bytes."""

    def cause(device: Device) -> None:
        site, url = device.site, device.publish("next")
        with site.failing(Fault()):
            installed, interfered = threading.Event(), threading.Event()

            def watch() -> None:
                while site.journal.total < after and not installed.wait(0.02):
                    pass
                if not installed.is_set():
                    interfere(site)
                    interfered.set()

            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                device.install(url, "--no-reboot", "--deadline", "600", *options)
            finally:
                installed.set()
                watcher.join()
        assert interfered.is_set(), "nothing was done to the server: the case shows nothing"
        device.reboot()

    return cause


def restart_with_errors(site: Site) -> None:
    """Restart the server, and let it answer three requests with an error."""
    site.fault = Fault(status=500, times=3)
    site.restart(1.0)


def install_through(fault: Fault, *options: str) -> Callable[[Device], None]:
    """Return a function that installs N+1 despite the fault. No data must be downloaded twice."""

    def cause(device: Device) -> None:
        version = device.versions.get("next", device.version.flavour)
        url = device.site.publish(version.bundle, "next.raucb")
        with device.site.failing(fault):
            device.install(url, "--no-reboot", "--deadline", "840", *options, timeout=1200)
            assert device.site.journal.strikes, "the server never failed: the case shows nothing"
            assert device.site.journal.total < 1.3 * version.bundle.stat().st_size
        device.reboot()

    return cause


def install_gives_up(fault: Fault | None, reason: str, *, deadline: int = 60) -> Callable[[Device], None]:
    """Return a function that asserts that the device gives up by its deadline, and reports the reason.

    The server keeps the fault; None means that it is stopped.
    """

    def cause(device: Device) -> None:
        url, begin = device.publish("next"), time.monotonic()
        with device.site.failing(fault or Fault()):
            if fault is None:
                device.site.stop()
            try:
                message = device.install_refused(url, "--deadline", str(deadline))
            finally:
                if fault is None:
                    device.site.start()
        assert re.search(reason, message), message
        assert time.monotonic() - begin < deadline + 90

    return cause


# --- the disk


def full_disk(device: Device) -> None:
    """Fill the data partition: nothing must be written, and the reason must be reported."""
    before = device.read_standing()
    device.node.run("fallocate -l $(( $(df --output=avail -B1 /var | tail -n 1) - 20 * 1048576 )) /var/lib/filler")
    message = device.install_refused(device.publish("next"))
    device.node.run("rm /var/lib/filler")
    assert re.search(r"\d+ MiB are free, but \d+ MiB are needed", message), message
    assert device.read_standing().slots == before.slots


def full_boot_partition(device: Device) -> None:
    """Fill the ESP, so that there is no room for the other slot's boot image."""
    device.node.run("fallocate -l $(( $(df --output=avail -B1 /efi | tail -n 1) - 1048576 )) /efi/filler")
    message = device.install_refused(device.publish("next"))
    device.node.run("rm /efi/filler && sync")
    assert re.search(r"no space left to install the bundle: \d+ bytes are needed, \d+ are free", message), message
    assert device.read_standing().slots.get("b") in (None, "bad")


def no_room_for_a_snapshot(device: Device) -> None:
    """Fill the data partition before the switch: without a snapshot there is no switch, and later it succeeds."""
    # Kubernetes is stopped meanwhile, because a kubelet evicts its pods when the disk is full.
    device.install(device.publish("next"), "--no-switch")
    fill = "fallocate -l $(( $(df --output=avail -B1 /var | tail -n 1) - 100 * 1048576 )) /var/lib/filler"
    switch = "edge-agent update switch --no-reboot"
    command = (
        f"systemctl stop {device.distribution.kubelet}; {fill}; {switch} 2>&1; echo status $?; rm /var/lib/filler; "
        f"systemctl start {device.distribution.kubelet}"
    )
    output = device.node.run(command, timeout=600)
    assert re.search(r"no snapshot of the cluster data can be taken: .* but \d+ MiB are free", output), output
    assert "status 1" in output, output
    assert device.read_standing().pending == "installed"
    device.check_intact()
    device.node.run(switch, timeout=300)
    device.reboot(timeout=2 * BOOT)


def cases() -> list[Case]:
    """Return all cases that start from a saved state; the others have tests of their own."""
    all_cases = [
        Case("connection", "restart", install_during(lambda site: site.restart(15.0)), "b", "committed", other="good"),
        Case(
            "connection", "lost", install_through(Fault(cut=1_000, after=MIDDLE, times=12)), "b", "committed",
            other="good",
        ),
        Case(
            "connection", "whole-lost", install_through(Fault(cut=20_000_000, times=3), "--fetch", "whole"), "b",
            "committed", other="good",
        ),
        Case(
            "connection", "whole-500s", install_during(restart_with_errors, "--fetch", "whole", after=20_000_000), "b",
            "committed", other="good",
        ),
        Case("connection", "flapping", install_through(Fault(drop=4)), "b", "committed", other="good"),
        Case("connection", "slow", install_through(Fault(pace=30_000)), "b", "committed", other="good"),
        Case(
            "connection", "500s", install_through(Fault(status=500, after=MIDDLE, times=12)), "b", "committed",
            other="good",
        ),
        Case("connection", "gone", install_gives_up(None, "cannot be reached|connection was lost"), event=""),
        Case(
            "connection", "500s-for-ever", install_gives_up(Fault(status=500, after=MIDDLE), "500|deadline has passed"),
            event="failed", why="500|lost|deadline has passed",
        ),
        Case(
            "connection", "silent-in-the-middle",
            install_gives_up(Fault(hang=True, after=MIDDLE), "deadline|nothing for"),
            event="failed", why="deadline|nothing for",
        ),
        Case("connection", "silent", install_gives_up(Fault(hang=True), "did not answer|nothing|deadline"), event=""),
        Case("connection", "no-ranges", install_gives_up(Fault(no_ranges=True), "cannot send parts"), event=""),
        Case(
            "bundle", "endless", install_gives_up(Fault(endless=True), "not a complete bundle|signature|Signature"),
            event="",
        ),
        Case("disk", "full", full_disk, event="", again=True),
        Case(
            "disk", "full-boot-partition", full_boot_partition, event="failed", why="no space left", again=True
        ),
        Case("disk", "snapshot", no_room_for_a_snapshot, "b", "committed", other="good", cluster=True),
    ]  # fmt: skip
    all_cases.append(
        Case("image", "boot-file-damaged", damage_boot_image, why="skipped the slot", other="bad", again=True)
    )
    light = [name for name in REASONS if name not in ("no-containerd", "never-ready")]
    for cluster, names in ((False, light), (True, list(REASONS))):
        all_cases += [
            Case(
                "image", name, install_broken(name), why=REASONS[name], other="bad", cluster=cluster,
                restored=cluster and name in MIGRATED,
            )
            for name in names
        ]  # fmt: skip
    return all_cases


def bad_bundle(name: str, device: Device, folder: Path) -> str:
    """Let a device install a bad bundle, and return why it refuses."""
    version = device.versions.get("next", device.version.flavour)
    bundle = bad_bundles.make_bad_bundle(name, device.versions, version, folder)
    url = device.site.publish(bundle, bundle.name)
    return device.install_refused(url, "--deadline", "120")
