"""Power cuts: at every flush of one update, by replaying its writes, and at random moments, by killing a machine.

Also faults of a disk during an update: torn sectors, failing sectors.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from support import filesystems
from support.boot_candidates import KnownVersion
from support.devices import Device, Lab, prepare_device, raw_disk
from support.ledger import Ledger
from support.power_cuts import cut_power_repeatedly
from support.replay import SECTOR
from support.survey import Survey, SurveyPlan, survey
from support.write_log import position

from osbuild.formats import gpt
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command

STATE = "/lib/edge-osbuild/update"  # on the data partition, which is mounted on /var
SAMPLE = 6  # states that are booted
SEED = 20260101


@dataclass(frozen=True)
class Recorded:
    """One update: the disk before and after it, the log of its writes, and the number of entries at each step."""

    disk: Path
    log: Path
    marks: dict[str, int]
    after: Path


@pytest.fixture(scope="module")
def recorded(lab: Lab) -> Recorded:
    """The writes from a good boot of N to the commit of N+1, between two orderly shutdowns."""
    old, new = lab.versions.get("n", bundle=False), lab.versions.get("next")
    disk, before, log = raw_disk(old, lab.folder / "disk.img"), lab.folder / "before.img", lab.folder / "writes.log"
    with lab.powered(old, "record", disk=disk) as device:
        prepare_device(device)
        device.node.guest.run("sudo systemctl poweroff", check=False)
        device.machine.wait_off(180)
    run_command(["cp", "--sparse=always", disk, before])
    marks = {}
    with lab.powered(old, "record", disk=disk, write_log=log) as device:
        device.wait_complete()
        device.wait_settled()
        marks["install"] = position(log)
        device.install(lab.site.publish(new.bundle, "next.raucb"), "--no-switch")
        marks["switch"] = position(log)
        device.node.run("edge-agent update switch --no-reboot", timeout=300)
        marks["reboot"] = position(log)
        assert device.reboot()["slot"] == "b"
        marks["commit"] = position(log)
        assert device.wait_settled().event == "committed"
        device.node.guest.run("sudo systemctl poweroff", check=False)
        device.machine.wait_off(180)
    return Recorded(before, log, marks, disk)


@pytest.fixture(scope="module")
def report(recorded: Recorded, lab: Lab) -> Survey:
    """The checks of all states of that update; some states are kept as images."""
    versions = [KnownVersion.of(lab.versions.lookup(name).build) for name in ("n", "next")]
    documents = [f"{STATE}/pending.json", f"{STATE}/verdict.json"]
    plan = SurveyPlan(versions, seed=SEED, documents=documents, marks=recorded.marks, keep=SAMPLE)
    folder = lab.folder / "survey"
    folder.mkdir()
    return survey(recorded.log, recorded.disk, folder, plan, filesystems.filesystem_tools(Cache()))


@pytest.mark.slow  # 6 minutes, to record an update
def test_every_flush_of_an_update_leaves_a_device_that_can_boot(report: Survey, ledger: Ledger) -> None:
    print(report)
    with ledger.entry("flush", "states") as entry:
        entry.seconds = report.seconds
        entry.figures = {"flushes": report.flushes, "states": report.states, "bad": report.bad}
        assert report.findings == []
        assert report.flushes > 20 and report.states > 3 * report.flushes
        assert set(report.chosen) == {"1.0.0 in slot a", "1.1.0 in slot b"}
        assert {"install", "switch", "reboot", "commit"} <= set(report.phases)


@pytest.mark.slow
def test_states_of_an_update_boot_completely(report: Survey, lab: Lab, ledger: Ledger) -> None:
    assert len(report.kept) == SAMPLE
    with ledger.entry("flush", "boots") as entry:
        entry.figures = {"states booted": len(report.kept)}
        for number, (image, state) in enumerate(report.kept.items()):
            assert_boots(Path(image), lab, f"state-{number}", state)
            Path(image).unlink()


def assert_boots(image: Path, lab: Lab, name: str, why: str) -> None:
    """Assert that a disk image boots one of the two versions, healthy and with its data."""
    with lab.powered(lab.versions.lookup("n"), name, disk=image) as device:
        match = device.wait_complete()
        assert (match["slot"], match["version"]) in (("a", "1.0.0"), ("b", "1.1.0")), why
        standing = device.wait_settled()
        assert (standing.slot, standing.version) == (match["slot"], match["version"]), why
        device.check_intact()


# Torn sectors


def second_table_sector(file: BinaryIO, esp: int) -> list[int]:
    """Return the first sector of the second copy of the allocation table."""
    reserved, size = fat_geometry(file, esp)
    return [esp + (reserved + size) * SECTOR]


def fsinfo_sector(file: BinaryIO, esp: int) -> list[int]:
    """Return the sector with the number of free clusters (FSInfo)."""
    return [esp + SECTOR]


def fat_geometry(file: BinaryIO, esp: int) -> tuple[int, int]:
    """Return the number of reserved sectors, and of sectors of one allocation table, of FAT32."""
    file.seek(esp)
    head = file.read(SECTOR)
    return int.from_bytes(head[14:16], "little"), int.from_bytes(head[36:40], "little")


def sector_of_file(name: str, position: float) -> Callable[[BinaryIO, int], list[int]]:
    """Return a function that returns a sector of the file on the ESP whose path matches `name`."""

    def find(file: BinaryIO, esp: int) -> list[int]:
        fat = Fat(file, esp, "esp")
        file_entry = next(entry for entry in fat.walk() if re.fullmatch(name, str(entry.path)))
        sectors = [
            esp + begin + sector_offset
            for begin, size in fat.extents(file_entry)
            for sector_offset in range(0, size, SECTOR)
        ]
        return [sectors[int(position * (len(sectors) - 1))]]

    return find


TORN = {
    "second-allocation-table": second_table_sector,
    "free-space": fsinfo_sector,
    "loader.conf": sector_of_file("loader/loader.conf", 0),
    "entries.srel": sector_of_file("loader/entries.srel", 0),
    "spare-systemd-boot": sector_of_file("EFI/systemd/systemd-boot.*", 0.5),
    "head-of-the-other-slots-file": sector_of_file(r"EFI/Linux/edge-\d+-a.*\.efi", 0),
    "middle-of-the-other-slots-file": sector_of_file(r"EFI/Linux/edge-\d+-a.*\.efi", 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORN)
def test_a_torn_sector_of_the_boot_partition_does_not_keep_a_device_from_booting(
    name: str, recorded: Recorded, lab: Lab, tmp_path: Path, ledger: Ledger
) -> None:
    image = tmp_path / "torn.img"
    run_command(["cp", "--sparse=always", recorded.after, image])
    esp = next(partition.offset for partition in gpt.read_table(image).partitions if partition.name == "esp")
    with image.open("r+b") as file:
        for offset in TORN[name](file, esp):
            file.seek(offset)
            file.write(random.Random(SEED).randbytes(SECTOR))
    with ledger.entry("torn", name):
        assert_boots(image, lab, f"torn-{name}", name)


# Killed machines


@pytest.mark.slow
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new_version(
    light: Device, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    """Each cut starts from the same good state, at a random moment of installation, switch, first boot or commit."""
    device = light.restore()
    url = device.publish("next")

    old = 0

    def repeat(slot: str) -> None:
        nonlocal old
        old += slot == "a"
        if slot == "a" and old % 4 == 1:
            device.install(url, "--no-reboot")
            assert device.reboot()["slot"] == "b", "the update can be repeated"

    with ledger.entry("power", "random") as entry:
        count = int(request.config.getoption("--cuts"))
        events = {"a": ("", "interrupted", "installed"), "b": ("committed",)}
        cut_power_repeatedly(device, lambda: device.start_install(url), count, entry.figures, events, afterwards=repeat)
        assert old, "no cut came before the switch: the case does not show that an update can be repeated"


# A disk that fails during an update: partition, and the distance in bytes between bad sectors.
FAILING_PARTS = {"slot": ("root-b", 8 * 2**20), "boot-partition": ("esp", 2**20)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING_PARTS)
def test_a_disk_that_fails_during_an_update_is_reported_and_the_running_slot_is_kept(
    name: str, lab: Lab, tmp_path: Path, ledger: Ledger
) -> None:
    version, (label, step) = lab.versions.get("n", bundle=False), FAILING_PARTS[name]
    disk = raw_disk(version, tmp_path / "disk.img")
    partition = next(partition for partition in gpt.read_table(disk).partitions if partition.name == label)
    offsets = range(partition.offset + 2**20, partition.offset + partition.size, step)
    with ledger.entry("disk", f"failing-{name}") as entry, lab.powered(version, f"failing-{name}", disk=disk) as device:
        prepare_device(device)
        url = device.publish("next")
        device.machine.break_sectors(offsets, kinds=["write"])
        reason = device.install_refused(url, "--deadline", "600")
        assert re.search(r"the disk vda fails", reason), reason
        entry.standing = standing = device.wait_settled()
        assert (standing.slot, standing.event) == ("a", "failed"), standing
        assert standing.slots.get("b") in (None, "bad")
        device.check_intact()
        device.machine.mend_sectors()
        device.install(url, "--no-reboot")
        assert device.reboot()["slot"] == "b"
