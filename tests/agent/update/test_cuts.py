"""An update that is cut off after any write, as often as one likes, ends with a slot that runs and can be updated."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osbuild.agent.commands import rollback
from osbuild.agent.health import CheckResult, RoundResult
from osbuild.agent.system import System
from osbuild.agent.update import commit, health_verdict, history, install, minimum_version, pending, records, switch
from osbuild.agent.update.after_boot import handle_boot
from osbuild.agent.update.commit import commit_update
from osbuild.agent.update.pending import UpdateStage
from osbuild.agent.update.rauc import BundleManifest
from osbuild.shared.files import write_file as system_write
from tests.support.boot_loaders import LOADERS, FileLoader
from tests.support.cuts import Cut
from tests.support.devices import Device
from tests.support.examples import examples

# healthy; fails its checks; never comes as far as the agent; can't be loaded, so that the other slot may be started,
# after a try of it or without one
GOOD, SICK, DEAD, TORN, DAMAGED = BEHAVIOURS = "good", "sick", "dead", "torn", "damaged"
LIMIT = 40  # boots after which a device counts as lost


@pytest.fixture(scope="module", autouse=True)
def _power() -> Iterator[None]:
    """Have everything that is written ask for power first."""
    patch = pytest.MonkeyPatch()
    real_write, real_remove = system_write, records.remove_file

    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        CURRENT.power.tick()
        real_write(path, data, mode)
        CURRENT.power.tick()

    def remove(system: System, name: str) -> None:
        CURRENT.power.tick()
        real_remove(system, name)
        CURRENT.power.tick()

    for module in (records, minimum_version):
        patch.setattr(module, "write_file", write)
    patch.setattr(records, "remove_file", remove)
    patch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug of this machine
    patch.setattr(commit, "reload_rauc", lambda: None)  # would ask this machine's bus for RAUC, some hundred times
    yield
    patch.undo()


class World:
    """A device, and how each version behaves."""

    def __init__(self, device: Device, behaviour: dict[str, str]) -> None:
        self.device = device
        self.behaviour = behaviour
        self.cuts: list[int] = []
        self.tried: set[str] = set()  # versions that were booted

    def run(self, act: Callable[[], object]) -> bool:
        """Do it. False where the power failed meanwhile; it is back then, until the next moment that was drawn."""
        try:
            with self.device.loader.watched():
                act()
        except Cut:
            self.device.power.restore(self.cuts.pop(0) if self.cuts else None)
            return False
        return True

    def begin(self, cuts: list[int]) -> None:
        """From now on the power fails: after so many writes, then after so many more, and so on."""
        self.cuts = list(cuts)
        self.device.power.restore(self.cuts.pop(0) if self.cuts else None)

    def end(self) -> None:
        self.cuts.clear()
        self.device.power.restore()

    def update(self, version: str) -> None:
        """`edge-agent update install`, and the boots until the device stays up."""
        device, node = self.device, self.device.context
        manifest = BundleManifest("edge-osbuild-tiny-test", version, "build", f"hash of {version}")

        def act() -> None:
            update = install.plan_update(node, "/bundle", manifest, False, None)
            if update.stage == UpdateStage.writing:
                update = install.write_slot(node, update, device.write(version))
            switch.switch_slot(node, update, reboot=True)

        self.settle(orderly=self.run(act))

    def settle(self, *, orderly: bool) -> None:
        """Boot until a boot is good or stays up."""
        device = self.device
        device.loader.damaged = {version for version, how in self.behaviour.items() if how == DAMAGED}
        for _ in range(LIMIT):
            slot = device.reboot(orderly=orderly)
            version = device.loader.slots[slot].image
            assert version, "an incomplete slot was booted"
            self.tried.add(version)
            orderly = False
            if self.behaviour[version] == TORN and device.kind != "uefi":  # as U-Boot does it
                device.loader.counted = None
                device.start("b" if slot == "a" else "a")
                version = str(device.loader.slots[device.slot].image)
            if self.behaviour[version] in (DEAD, TORN) or not self.run(lambda: handle_boot(device.context)):
                continue
            if self.behaviour[version] == SICK:
                bad = RoundResult(False, True, 600.0, (CheckResult("50-node", False, "not Ready", 1.0),))
                orderly = self.run(lambda bad=bad: health_verdict.store_failed(device.system, asdict(bad)))  # type: ignore[misc]
                continue
            if self.run(self.finish):
                return
        pytest.fail("it never came to rest")

    def finish(self) -> None:
        """The end of a good boot."""
        device = self.device
        entry = device.entry(device.slot)
        assert entry, "the running slot has a boot entry"
        if entry.left is not None:
            device.loader.bless(device.system, device.slot)
        commit_update(device.context)
        device.cluster.rejoin(device.system)  # as edge-kubernetes-uncordon.service does

    def sane(self, version: str) -> None:
        """It runs `version`, and everything that is written down agrees."""
        device = self.device
        entry = device.entry(device.slot)
        assert device.loader.slots[device.slot].image == version
        assert entry and entry.left is None
        assert device.loader.next_slot(device.system) == device.slot, "the next boot starts the running slot"
        assert not device.cluster.cordoned
        events = Counter((row["id"], row["event"]) for row in history.read_history(device.system) if "id" in row)
        assert not [event for event, count in events.items() if count > 1]
        ends = Counter(key for key, event in events if event in ("committed", "rolled-back", "interrupted", "replaced"))
        assert not [key for key, count in ends.items() if count > 1], "an update has one end"
        open_ones = {key for key, event in events if event == "started"} - ends.keys()
        assert len(open_ones) == bool(pending.load_pending(device.system)), "every update that was started has ended"
        given_up = [row for row in history.read_history(device.system) if row["event"] == "rolled-back"]
        tried = self.tried | device.loader.damaged
        assert {row["after"]["version"] for row in given_up} <= tried, "only booted updates were rolled back"


def resume(world: World) -> None:
    """What was installed and not switched to is still there to be switched to."""
    device = world.device
    update = pending.load_pending(device.system)
    if update:
        assert update.stage == UpdateStage.installed
        switch.switch_pending(device.context, reboot=True)
        world.settle(orderly=True)


CURRENT: Device  # the device that the functions above ask for power


@pytest.mark.parametrize("kind", LOADERS)
@given(
    cuts=st.lists(st.integers(0, 64), max_size=6), new=st.sampled_from(BEHAVIOURS), forgets=st.booleans(),
    failed=st.booleans(),
)  # fmt: skip
@settings(max_examples=examples(80))
def test_an_update_survives_power_cuts_anywhere(
    kind: str, cuts: list[int], new: str, forgets: bool, failed: bool
) -> None:
    """`failed`: another one has failed before it."""
    global CURRENT
    with tempfile.TemporaryDirectory() as folder:
        CURRENT = device = Device(Path(folder), kind)
        device.loader.forgets = forgets
        world = World(device, {"1.0.0": GOOD, "1.0.5": SICK, "1.1.0": new, "1.2.0": GOOD})
        world.settle(orderly=False)
        if failed:
            world.update("1.0.5")
        assert minimum_version.read_minimum(device.system) == "1.0.0"
        world.begin(cuts)
        world.update("1.1.0")
        world.end()
        resume(world)
        if new == GOOD and device.loader.slots[device.slot].image == "1.0.0":
            world.sane("1.0.0")
            world.update("1.1.0")
        world.sane("1.1.0" if new == GOOD else "1.0.0")
        assert pending.load_pending(device.system) is None
        assert minimum_version.read_minimum(device.system) == ("1.1.0" if new == GOOD else "1.0.0"), (
            "a bad version does not raise the minimum version"
        )

        world.update("1.2.0")
        world.sane("1.2.0")
        assert [row["event"] for row in history.read_history(device.system)][-2:] == ["switched", "committed"]


@pytest.mark.parametrize("kind", LOADERS)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), old=st.sampled_from(BEHAVIOURS))
@settings(max_examples=examples(35))
def test_a_rollback_survives_power_cuts_anywhere(kind: str, cuts: list[int], old: str) -> None:
    global CURRENT
    with tempfile.TemporaryDirectory() as folder:
        CURRENT = device = Device(Path(folder), kind)
        world = World(device, {"1.0.0": GOOD, "1.1.0": GOOD, "1.2.0": GOOD})
        world.settle(orderly=False)
        world.update("1.1.0")
        world.behaviour["1.0.0"] = old
        world.begin(cuts)
        world.settle(orderly=world.run(lambda: rollback.roll_back(device.context, reboot=True)))
        world.end()
        assert pending.load_pending(device.system) is None
        assert device.loader.slots[device.slot].image in (("1.0.0", "1.1.0") if old == GOOD else ("1.1.0",))
        world.sane(str(device.loader.slots[device.slot].image))
        assert minimum_version.read_minimum(device.system) == "1.1.0", (
            "a manual rollback does not lower the minimum version"
        )
        world.update("1.2.0")
        world.sane("1.2.0")


@given(cuts=st.lists(st.integers(0, 60), max_size=6), old=st.sampled_from(BEHAVIOURS), again=st.booleans())
@settings(max_examples=examples(60))
def test_a_rollback_of_a_trial_survives_power_cuts_and_can_be_withdrawn(cuts: list[int], old: str, again: bool) -> None:
    global CURRENT
    with tempfile.TemporaryDirectory() as folder:
        CURRENT = device = Device(Path(folder))
        world = World(device, {"1.0.0": GOOD, "1.1.0": GOOD, "1.2.0": GOOD})
        world.settle(orderly=False)
        update = install.plan_update(device.context, "/b", BundleManifest("", "1.1.0", "build", "hash"), False, None)
        switch.switch_slot(
            device.context, install.write_slot(device.context, update, device.write("1.1.0")), reboot=True
        )
        assert device.reboot() == "b"
        handle_boot(device.context)
        world.tried.add("1.1.0")
        world.behaviour["1.0.0"] = old
        world.begin(cuts if old == GOOD else cuts[:1])  # two cuts of the trial use up its tries: then no slot has any
        result = world.run(lambda: rollback.roll_back(device.context, reboot=True))
        if result and again:
            result = world.run(lambda: rollback.roll_back(device.context, reboot=True))
            world.behaviour["1.0.0"] = GOOD
        world.settle(orderly=result)
        world.end()
        version = str(device.loader.slots[device.slot].image)
        assert version == "1.1.0" if old != GOOD and not again else version in ("1.0.0", "1.1.0")
        world.sane(version)
        assert pending.load_pending(device.system) is None
        ends = [row["event"] for row in history.read_history(device.system) if row.get("id") == update.id]
        assert ends[-1] == ("committed" if version == "1.1.0" and ends[-1] != "rolled-back" else "rolled-back")
        world.update("1.2.0")
        world.sane("1.2.0")


@pytest.mark.parametrize("kind", LOADERS)
@given(at=st.integers(0, 51), failed=st.booleans())  # as many moments as the longest one has, and one more
@settings(max_examples=examples(104))
def test_after_one_power_cut_a_good_update_needs_at_most_one_more_command(kind: str, at: int, failed: bool) -> None:
    global CURRENT
    with tempfile.TemporaryDirectory() as folder:
        CURRENT = device = Device(Path(folder), kind)
        world = World(device, {"1.0.0": GOOD, "1.0.5": SICK, "1.1.0": GOOD})
        world.settle(orderly=False)
        if failed:
            world.update("1.0.5")
        world.begin([at])
        world.update("1.1.0")
        world.end()
        update = pending.load_pending(device.system)
        if device.slot == "a":
            world.sane("1.0.0")
            assert update is None or update.stage == UpdateStage.installed
            resume(world) if update else world.update("1.1.0")
        world.sane("1.1.0")
        assert pending.load_pending(device.system) is None


TWICE = {
    ("uefi", "edge-2-b+3.efi", "edge-b.efi.staged"), ("uefi", "edge-2-b+2-1.efi", "edge-2-b.efi"),
    ("uefi", "edge-b.efi.partial", "edge-b.efi.staged"), ("uefi", "edge-b.efi.staged", "edge-b.efi.spare"),
    ("uboot", "edge-b.img", "edge-b.img.staged"), ("uboot", "edge-b.img.partial", "edge-b.img.staged"),
    ("uboot", "edge-b.img.staged", "edge-b.img.spare"),
}  # fmt: skip


def twice(folder: Path, kind: str, one: str, other: str) -> Device:
    """A device with two names for one file, as a power cut within a rename leaves them: 1.0.5 is in slot B."""
    global CURRENT
    CURRENT = device = Device(folder, kind)
    assert isinstance(device.loader, FileLoader)
    device.loader.slots["b"].image = "1.0.5"
    (device.loader.fat.folder / one).write_bytes(device.loader.file("b", "1.0.5"))
    (device.loader.fat.folder / other).hardlink_to(device.loader.fat.folder / one)
    return device


@pytest.mark.parametrize(("kind", "one", "other"), sorted(TWICE))
def test_removing_two_names_of_one_file_is_safe_at_every_power_cut(
    kind: str, one: str, other: str, tmp_path: Path
) -> None:
    """An installation is cut off while it removes what is there, the next one too, and the third one is not."""
    moments = 0
    for first in range(10):
        for then in range(10):
            with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
                device = twice(Path(folder), kind, one.replace("2-b", "0-b"), other.replace("2-b", "0-b"))
                world = World(device, {})
                world.begin([first, then])
                removed = []
                while True not in removed:
                    removed.append(world.run(device.write("1.1.0")))
                    assert device.reboot() == "a"
                world.end()
                device.loader.switch_to(device.system, "b")
                assert device.reboot() == "b"
                moments += len(removed) == 3
    assert moments > 25, "both removals were cut"


@pytest.mark.parametrize(("kind", "one", "other"), sorted(TWICE))
def test_rejecting_a_slot_with_two_names_of_its_file_survives_power_cuts(
    kind: str, one: str, other: str, tmp_path: Path
) -> None:
    for moment in range(30):
        device = twice(tmp_path / str(moment), kind, one, other)
        world = World(device, {})
        world.begin([moment])
        result = world.run(lambda device=device: device.loader.reject(device.system, "b"))  # type: ignore[misc]
        world.end()
        device.reboot()  # into whichever: it can be loaded
        assert world.run(lambda device=device: device.loader.reject(device.system, "b"))  # type: ignore[misc]
        assert device.reboot() == "a"
    assert result, "the last round was not cut"
