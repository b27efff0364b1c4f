"""A device under test: an image of `versions`, booted once to a good state that every case can start from again."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osbuild.host.run import run_command
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from support.distributions import Distribution
from support.faulty_server import GUEST, Site
from support.nodes import BOOT, CONNECT, DEPLOYMENT, KUBECTL, LOGS_FOLDER, USER, Node, make_seed
from support.versions import CLUSTERS, Version, Versions

READY = "ready"  # the saved state that cases begin with
MEMORY = {False: 1024 * 2**20, True: 3 * 2**30}  # without a cluster, and with one
MORE = 2 * 2**30  # bytes that the disk is larger than the image
KEPT = "/var/lib/kept"
OBJECTS = 20  # objects that the cluster has before an update
NOT_INSTALLED = (  # what says why a bundle is not
    "systemctl status rauc",
    "ps -eo pid,stat,wchan:30,etimes,args --sort=etimes | head -n 40",
    "journalctl -b --no-pager --lines=100 -u rauc",
    "journalctl -b --no-pager --lines=100 -k",
)
HALTED = r"Reboot failed -- System halted"
COMPLETE = r"edge-osbuild: boot complete: (?P<name>\S+) (?P<version>\S+) slot (?P<slot>\w) "


@dataclass(frozen=True)
class Standing:
    """Where a device stands, as `edge-agent explain` has it: slots' states, the last event of an update."""

    slot: str
    version: str
    state: str
    left: int | None
    slots: Mapping[str, str]
    event: str
    why: str
    pending: str | None
    healthy: bool

    @classmethod
    def of(cls, explained: Mapping[str, Any]) -> "Standing":
        node, update = explained["node"], explained["update"]
        last = update["last"] or {}
        return cls(
            slot=node["slot"],
            version=node["version"],
            state=node["boot"]["state"],
            left=node["boot"]["left"],
            slots={slot: entry["state"] for slot, entry in update["slots"].items()},
            event=last.get("event", ""),
            why=last.get("why", ""),
            pending=update["pending"]["stage"] if update["pending"] else None,
            healthy=node["health"]["healthy"],
        )


@dataclass
class Device:
    """A booted machine with the version N in slot a."""

    node: Node
    version: Version
    versions: Versions
    site: Site
    others: list["Device"] = field(default_factory=list)
    """those that were made for many tests; two at work at once would be too much for small hosts"""
    cuts: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def machine(self) -> Machine:
        return self.node.machine

    @property
    def patience(self) -> float:
        """How many times longer than others this machine needs: an emulated Pi has one slow processor."""
        return 4.0 if self.versions.board.qemu.firmware == "uboot" else 1.0

    @property
    def cluster(self) -> bool:
        return self.version.flavour in CLUSTERS

    @property
    def distribution(self) -> Distribution:
        """Of its cluster."""
        return CLUSTERS[self.version.flavour]

    # --- asking

    def explain(self) -> dict[str, Any]:
        """What `edge-agent explain --json` says."""
        found: dict[str, Any] = json.loads(self.node.run("edge-agent explain --json"))
        return found

    def standing(self) -> Standing:
        return Standing.of(self.explain())

    def settled(self, timeout: float = 120.0) -> Standing:
        """Where it stands once the running slot is good and no update is under way that only waits for that."""
        timeout *= self.patience
        end = time.monotonic() + timeout
        while True:
            found = self.standing()
            if found.state == "good" and found.healthy and found.pending != "switched":
                return found
            assert time.monotonic() < end, f"after {timeout:g} s it still is: {found}"
            time.sleep(2)

    def intact(self) -> None:
        """What was there before the update is there: data, and the cluster with its objects, which answers."""
        assert self.node.run(f"cat {KEPT}").strip() == "kept"
        if not self.cluster:
            return
        self.node.until(f"{KUBECTL} wait --for=condition=Ready node --all", BOOT)
        items = json.loads(self.node.kubectl("get configmaps -o json"))["items"]
        kept = {each["metadata"]["name"]: each["data"] for each in items if each["metadata"]["name"].startswith("kept")}
        assert kept == {f"kept-{number}": {"number": str(number)} for number in range(OBJECTS)}
        self.node.rolled_out("web")
        # After a fallback nobody waits for that but a unit of its own, which tries again after 30 s.
        self.node.until("test ! -e /var/lib/kubernetes/cordoned", 180)
        assert not self.registered()["spec"].get("unschedulable"), "the node was left cordoned"

    def registered(self) -> dict[str, Any]:
        """The node, as its cluster has it."""
        found: dict[str, Any] = json.loads(self.node.kubectl("get nodes -o json"))["items"][0]
        return found

    def kubelet(self) -> str:
        """The Kubernetes that the node says it runs."""
        return str(self.registered()["status"]["nodeInfo"]["kubeletVersion"])

    # --- doing

    def publish(self, name: str) -> str:
        """Build the version of that name, if it is not there, and serve its bundle; its address."""
        return self.site.publish(self.versions.get(name, self.version.flavour).bundle, f"{name}.raucb")

    def install(self, source: str, *options: str, timeout: float = 900.0) -> list[dict[str, Any]]:
        """Install, and return what was reported; raises `AssertionError` unless that ends well."""
        status, events = self.try_install(source, *options, timeout=timeout)
        if status:
            raise AssertionError(f"{events[-3:]}\n{self.node.says(NOT_INSTALLED)}")
        return events

    def refused(self, source: str, *options: str, timeout: float = 900.0) -> str:
        """Install, which must fail: why."""
        status, events = self.try_install(source, *options, timeout=timeout)
        assert status == 1, f"status {status}: {events[-3:]}"
        assert events[-1]["event"] == "error", events[-1]
        return str(events[-1]["text"])

    def try_install(self, source: str, *options: str, timeout: float = 900.0) -> tuple[int, list[dict[str, Any]]]:
        """Status, and the events that were reported."""
        words = ["sudo", "edge-agent", "update", "install", source, "--json", *options]
        result = self.node.guest.run(words, check=False, timeout=timeout * self.patience)
        events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        assert events, f"status {result.status}: {result.stdout}{result.stderr}"
        return result.status, events

    def start_install(self, source: str, *options: str) -> None:
        """Begin an installation that goes on by itself, as `begin` has it."""
        self.begin(f"edge-agent update install {source} --json {' '.join(options)}")

    def begin(self, command: str) -> None:
        """Start something that goes on by itself; what it says is in /var/lib/begun.log."""
        self.node.run(f"systemd-run --collect --unit=test-begun sh -c '{command} > /var/lib/begun.log 2>&1'")

    def reboot(self, *, timeout: float = BOOT) -> re.Match[str]:
        """Reboot in order, and wait for a boot that is complete."""
        self._ask_for_reboot()
        return self.wait_complete(timeout)

    def fall_back(self, timeout: float) -> None:
        """Reboot into a slot that fails, and wait until slot a runs again; `timeout` is for each boot.

        An emulated Pi stays halted after a panic, for want of the watchdog that guards its kernel on the board
        (`test_uboot.py` shows that it does). There the plug is pulled instead.
        """
        ends = f"{COMPLETE}|{HALTED}" if self.versions.board.uboot.watchdog else COMPLETE
        self._ask_for_reboot()
        while (found := self.machine.console.wait_for(ends, timeout, through_panic=True))["slot"] != "a":
            if not found["slot"]:
                self.cut()
                self.machine.boot_again()
        self._connect_anew()

    def wait_complete(self, timeout: float = BOOT) -> re.Match[str]:
        """Wait for a boot that is complete, whatever fails before it; then for SSH."""
        found = self.machine.console.wait_for(COMPLETE, timeout, through_panic=True)
        self._connect_anew()
        return found

    def _ask_for_reboot(self) -> None:
        self.machine.console.skip()
        self.node.guest.run("sudo systemctl reboot", check=False)

    def _connect_anew(self) -> None:
        self.node.guest.disconnect()
        self.node.guest.wait_ready(CONNECT)

    def cut(self) -> None:
        """Pull the plug."""
        self.cuts += 1
        self.machine.power_cut()

    def power_on(self, timeout: float = BOOT) -> re.Match[str]:
        self.machine.boot_again()
        return self.wait_complete(timeout)

    def restore(self, state: str = READY) -> "Device":
        """Back to a good state that was saved; the machines of others are off then."""
        switch_off([self, *self.others])
        self.machine.boot_again(state)
        self.node.guest.wait_ready(CONNECT)
        self.begun = time.monotonic()
        return self

    @property
    def seconds(self) -> float:
        """Since the case began."""
        return round(time.monotonic() - self.begun, 1)


def switch_off(devices: Iterable[Device]) -> None:
    """Pull the plug of those that run."""
    for device in devices:
        if device.machine.running:
            device.machine.power_cut()


def prepare_device(device: Device) -> None:
    """Wait for the first boot to be good, and put in place what must survive."""
    device.wait_complete()
    device.node.wait_good(180)
    device.node.run(f"echo kept > {KEPT} && sync")
    if device.cluster:
        device.node.guest.put(DEPLOYMENT.encode(), "/tmp/demo.yaml")
        device.node.kubectl("apply -f /tmp/demo.yaml")
        maps = "\n---\n".join(
            f'{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "kept-{number}"}},'
            f' "data": {{"number": "{number}"}}}}'
            for number in range(OBJECTS)
        )
        device.node.guest.put(maps.encode(), "/tmp/kept.yaml")
        device.node.kubectl("apply -f /tmp/kept.yaml")
        device.node.rolled_out("web")


@dataclass(frozen=True)
class Lab:
    """What every device under test has in common; what belongs to single devices is kept in `folder`."""

    versions: Versions
    site: Site
    key: KeyPair
    accelerator: Accelerator
    folder: Path
    saved: list[Device] = field(default_factory=list)

    @contextmanager
    def powered(
        self, version: Version, log: str, *, disk: Path | None = None, write_log: Path | None = None,
        other: Path | None = None,
    ) -> Iterator[Device]:  # fmt: skip
        """A machine with a version's image, or with the raw `disk`, which it writes to; gone at the block's end.

        The raw disk `other`, if any, is in the machine too, and sorts first if the board can have NVMe. The machines
        of devices whose state is saved are switched off before.
        """
        switch_off(self.saved)
        seed = self.folder / f"{log}.iso"
        if not seed.exists():
            profile = str(self.versions.profile(version.name, version.flavour))
            server = [f"agent.server=http://{GUEST}:{self.site.port}/", "agent.offline=false"]
            make_seed(profile, "device-1", self.key, seed, settings=server)
        board = self.versions.board
        qemu = find_emulator(board.architecture)
        config = MachineConfig(
            board=board, media=(seed,), write_log=write_log, watchdog=board.qemu.disk == "virtio",
            memory=None if board.qemu.memory else MEMORY[version.flavour in CLUSTERS],
            image=None if disk else version.image, disks=(disk,) if disk else (),
            disk_size=None if disk else version.image.stat().st_size + MORE,
        )  # fmt: skip
        if other:
            nvme = board.qemu.disk == "virtio"
            config = replace(config, nvme=(other,)) if nvme else replace(config, disks=(*config.disks, other))
        path = LOGS_FOLDER / f"{log}-{board.name}.log"
        with Machine(config, log=path, wrap=qemu.wrap, root=qemu.root, accelerator=self.accelerator) as machine:
            yield Device(Node(machine, machine.guest(USER, self.key)), version, self.versions, self.site, self.saved)

    @contextmanager
    def ready(self, flavour: str, log: str, *, other: Path | None = None) -> Iterator[Device]:
        """A device with version N that was found well; with the raw disk `other` in it too."""
        with self.powered(self.versions.get("n", flavour, bundle=False), log, other=other) as device:
            prepare_device(device)
            yield device

    def save(self, device: Device) -> None:
        """Save its state for `BlockDevice.restore`, whatever tests with other devices run before."""
        device.machine.save(READY)
        self.saved.append(device)


def raw_disk(version: Version, target: Path) -> Path:
    """A sparse copy of a version's image, as large as the devices here have it."""
    run_command(["cp", "--sparse=always", version.image, target])
    with target.open("r+b") as file:
        file.truncate(version.image.stat().st_size + MORE)
    return target
