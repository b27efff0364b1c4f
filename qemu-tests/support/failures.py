"""The failure matrix: each fault, how it is caused, and what must hold afterwards.

`test_update_matrix.py` runs the cases; each begins with a device that runs N from slot a, healthy, with data and, on
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

# Seconds that a boot has for its health checks, without a cluster and with one, as the profiles say.
DEADLINE = {False: 200.0, True: 480.0}
TRIAL = {False: 200.0, True: 300.0}  # the same of one that is broken
LATE = 150.0  # and what comes before and after: firmware, kernel, the guard's minute, the way down
# What is given all three tries: what fails early, and without a cluster, where a try takes five minutes and not ten, a
# verdict of the health checks and a slot without one.
EARLY = ("panic", "panic-initrd", "root-lost", "hung")
THRICE = {False: (*EARLY, "unhealthy", "reboot-loop"), True: EARLY}
MIGRATED = ("unhealthy", "stuck", "never-ready", "no-containerd")
# As if two tries had been used (systemd-boot(7), "Boot Counting").
ONE_TRY = r"""cd /efi/EFI/Linux && for file in edge-*-b+3.efi; do mv "$file" "${file%+3.efi}+1-2.efi"; done && sync"""
MIDDLE = 150_000  # bytes after which the middle of a download has come: most blocks are on the device already


@dataclass(frozen=True)
class Case:
    """One fault.

    `cause` makes it happen, and returns when the device has come to rest again. `slot` runs then, and is good; `event`
    and `why` (re) are the update's last event and its reason; `other` is the state of the other slot's entry, None if
    it must have none or may have any. `group` is the row of the matrix.
    """

    group: str
    name: str
    cause: Callable[[Device], None]
    slot: str = "a"
    event: str = "rolled-back"
    why: str = ""
    other: str | None = None
    cluster: bool = False
    """whether it is for devices with a cluster"""
    again: bool = False
    """whether a good update must work afterwards"""
    restored: bool = False
    """whether the newer Kubernetes has changed the datastore, which must then be as it was at the snapshot"""

    def check(self, device: Device) -> Standing:
        """Assert everything that must hold."""
        found = device.settled(240)
        assert found.slot == self.slot, found
        expected = device.versions.named("next" if self.slot == "b" else "n", device.version.flavour).version
        assert found.version == expected, found
        assert found.healthy and found.state == "good" and found.left is None, found
        assert found.event == self.event, found
        assert re.search(self.why, found.why), f"{self.why!r} is not in {found.why!r}"
        if self.other:
            assert found.slots.get("b" if self.slot == "a" else "a") == self.other, found
        if self.restored:
            assert device.explain()["update"]["last"]["cluster"]["restored"]["snapshot"]
        device.intact()
        return found


# --- a new image that is broken


def broken(name: str) -> Callable[[Device], None]:
    """Install a broken version, and wait until the device runs the old one again."""

    def cause(device: Device) -> None:
        version = device.versions.get(name, device.version.flavour)
        device.install(device.site.publish(version.bundle, f"{name}.raucb"), "--no-reboot", "--fetch", "parts")
        for image in ("disk.img", "disk.img.zst"):
            (version.build / image).unlink(missing_ok=True)  # a gigabyte of which nothing is needed but the bundle
        tries = 3
        if name not in THRICE[device.cluster]:
            device.node.run(ONE_TRY)
            tries = 1
        device.begun = time.monotonic()
        trials = tries * (TRIAL[device.cluster] + LATE)
        device.fall_back(trials + BOOT)
        assert device.seconds < trials + DEADLINE[device.cluster] + LATE, "within the deadline"

    return cause


WHY: Mapping[str, str] = {
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


def passed_over(device: Device) -> None:
    """The boot loader can't read the new slot's boot file, and takes the other slot at once."""
    device.install(device.publish("next"), "--no-reboot")
    device.node.run("dd if=/dev/zero of=$(ls /efi/EFI/Linux/edge-*-b+3.efi) bs=4096 count=1 conv=notrunc,fsync")
    assert device.reboot()["slot"] == "a"


# --- the network


def during(work: Callable[[Site], None], *options: str, after: int = MIDDLE) -> Callable[[Device], None]:
    """Install N+1, while `work` is done to the server once `after` bytes have been served."""

    def cause(device: Device) -> None:
        site, url = device.site, device.publish("next")
        with site.failing(Fault()):
            done, worked = threading.Event(), threading.Event()

            def watch() -> None:
                while site.journal.total < after and not done.wait(0.02):
                    pass
                if not done.is_set():
                    work(site)
                    worked.set()

            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                device.install(url, "--no-reboot", "--deadline", "600", *options)
            finally:
                done.set()
                watcher.join()
        assert worked.is_set(), "nothing was done to the server: the case shows nothing"
        device.reboot()

    return cause


def back_with_errors(site: Site) -> None:
    """The server restarts, and answers three requests with an error then."""
    site.fault = Fault(status=500, times=3)
    site.restart(1.0)


def through(fault: Fault, *options: str) -> Callable[[Device], None]:
    """Install N+1 all the same while the server fails so. What has come before is not fetched again."""

    def cause(device: Device) -> None:
        version = device.versions.get("next", device.version.flavour)
        url = device.site.publish(version.bundle, "next.raucb")
        with device.site.failing(fault):
            device.install(url, "--no-reboot", "--deadline", "840", *options, timeout=1200)
            assert device.site.journal.struck, "the server never failed: the case shows nothing"
            assert device.site.journal.total < 1.3 * version.bundle.stat().st_size
        device.reboot()

    return cause


def gives_up(fault: Fault | None, reason: str, *, deadline: int = 60) -> Callable[[Device], None]:
    """The server stays like that (None: it goes away): the device gives up by its deadline, and names the reason."""

    def cause(device: Device) -> None:
        url, begin = device.publish("next"), time.monotonic()
        with device.site.failing(fault or Fault()):
            if fault is None:
                device.site.stop()
            try:
                said = device.refused(url, "--deadline", str(deadline))
            finally:
                if fault is None:
                    device.site.start()
        assert re.search(reason, said), said
        assert time.monotonic() - begin < deadline + 90

    return cause


# --- the disk


def full_disk(device: Device) -> None:
    """The data partition has no room: nothing is written, and the reason is named."""
    before = device.standing()
    device.node.run("fallocate -l $(( $(df --output=avail -B1 /var | tail -n 1) - 20 * 1048576 )) /var/lib/filler")
    said = device.refused(device.publish("next"))
    device.node.run("rm /var/lib/filler")
    assert re.search(r"\d+ MiB are free, but \d+ MiB are needed", said), said
    assert device.standing().slots == before.slots


def full_boot_partition(device: Device) -> None:
    """The boot partition has no room for the other slot's file."""
    device.node.run("fallocate -l $(( $(df --output=avail -B1 /efi | tail -n 1) - 1048576 )) /efi/filler")
    said = device.refused(device.publish("next"))
    device.node.run("rm /efi/filler && sync")
    assert re.search(r"no space left to install the bundle: \d+ bytes are needed, \d+ are free", said), said
    assert device.standing().slots.get("b") in (None, "bad")


def no_room_for_a_snapshot(device: Device) -> None:
    """The data partition has become full by the time of the switch: none without a snapshot, and later it can be had.

    Kubernetes' programs, of which the kubelet would send its pods away from a full disk, are stopped for that moment.
    """
    device.install(device.publish("next"), "--no-switch")
    fill = "fallocate -l $(( $(df --output=avail -B1 /var | tail -n 1) - 100 * 1048576 )) /var/lib/filler"
    switch = "edge-agent update switch --no-reboot"
    whole = (
        f"systemctl stop {device.distribution.kubelet}; {fill}; {switch} 2>&1; echo status $?; rm /var/lib/filler; "
        f"systemctl start {device.distribution.kubelet}"
    )
    said = device.node.run(whole, timeout=600)
    assert re.search(r"no snapshot of the cluster data can be taken: .* but \d+ MiB are free", said), said
    assert "status 1" in said, said
    assert device.standing().pending == "installed"
    device.intact()
    device.node.run(switch, timeout=300)
    device.reboot(timeout=2 * BOOT)


def cases() -> list[Case]:
    """All of them that start from a saved state; the rest have tests of their own."""
    found = [
        Case("connection", "restart", during(lambda site: site.restart(15.0)), "b", "committed", other="good"),
        Case("connection", "lost", through(Fault(cut=1_000, after=MIDDLE, times=12)), "b", "committed", other="good"),
        Case(
            "connection", "whole-lost", through(Fault(cut=20_000_000, times=3), "--fetch", "whole"), "b", "committed",
            other="good",
        ),
        Case(
            "connection", "whole-500s", during(back_with_errors, "--fetch", "whole", after=20_000_000), "b",
            "committed", other="good",
        ),
        Case("connection", "flapping", through(Fault(drop=4)), "b", "committed", other="good"),
        Case("connection", "slow", through(Fault(pace=30_000)), "b", "committed", other="good"),
        Case("connection", "500s", through(Fault(status=500, after=MIDDLE, times=12)), "b", "committed", other="good"),
        Case("connection", "gone", gives_up(None, "cannot be reached|connection was lost"), event=""),
        Case(
            "connection", "500s-for-ever", gives_up(Fault(status=500, after=MIDDLE), "500|deadline has passed"),
            event="failed", why="500|lost|deadline has passed",
        ),
        Case(
            "connection", "silent-in-the-middle", gives_up(Fault(hang=True, after=MIDDLE), "deadline|nothing for"),
            event="failed", why="deadline|nothing for",
        ),
        Case("connection", "silent", gives_up(Fault(hang=True), "did not answer|nothing|deadline"), event=""),
        Case("connection", "no-ranges", gives_up(Fault(no_ranges=True), "cannot send parts"), event=""),
        Case("bundle", "endless", gives_up(Fault(endless=True), "not a complete bundle|signature|Signature"), event=""),
        Case("disk", "full", full_disk, event="", again=True),
        Case(
            "disk", "full-boot-partition", full_boot_partition, event="failed", why="no space left", again=True
        ),
        Case("disk", "snapshot", no_room_for_a_snapshot, "b", "committed", other="good", cluster=True),
    ]  # fmt: skip
    found.append(Case("image", "boot-file-damaged", passed_over, why="skipped it", other="bad", again=True))
    light = [name for name in WHY if name not in ("no-containerd", "never-ready")]
    for cluster, names in ((False, light), (True, list(WHY))):
        found += [
            Case(
                "image", name, broken(name), why=WHY[name], other="bad", cluster=cluster,
                restored=cluster and name in MIGRATED,
            )
            for name in names
        ]  # fmt: skip
    return found


def bad_bundle(name: str, device: Device, folder: Path) -> str:
    """Have a device install a bad bundle from a file: what it says."""
    version = device.versions.get("next", device.version.flavour)
    made = bad_bundles.make(name, device.versions, version, folder)
    url = device.site.publish(made, made.name)
    return device.refused(url, "--deadline", "120")
