"""A device under test: an image of `versions`, booted once to a good state from which every case starts."""

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
from osbuild.qemu.config import CPUS, MachineConfig
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from support.distributions import DistributionUnderTest
from support.faulty_server import GUEST, Site
from support.nodes import BOOT, CONNECT, DEPLOYMENT, KUBECTL, LOGS_FOLDER, USER, Node, make_seed
from support.versions import CLUSTERS, Version, Versions

READY = "ready"  # the saved state from which cases start
MEMORY = {False: 1024 * 2**20, True: 3 * 2**30}  # without a cluster, and with one
EXTRA_SPACE = 2 * 2**30  # bytes by which the disk is larger than the image
KEPT_FILE = "/var/lib/kept"
OBJECTS = 20  # objects that the cluster has before an update
INSTALL_DIAGNOSTICS = (  # commands that show why a bundle is not installed
    "systemctl status rauc",
    "ps -eo pid,stat,wchan:30,etimes,args --sort=etimes | head -n 40",
    "journalctl -b --no-pager --lines=100 -u rauc",
    "journalctl -b --no-pager --lines=100 -k",
)
HALTED = r"Reboot failed -- System halted"
COMPLETE = r"edge-osbuild: boot complete: (?P<name>\S+) (?P<version>\S+) slot (?P<slot>\w) "


@dataclass(frozen=True)
class Standing:
    """The state of a device, from `edge-agent explain`: running slot, state of each slot, last event of an update."""

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
    """A booted machine with the version N in slot A."""

    node: Node
    version: Version
    versions: Versions
    site: Site
    saved_devices: list["Device"] = field(default_factory=list)
    """devices that many tests share; a small host cannot run two of them at the same time"""
    cuts: int = 0
    case_start: float = field(default_factory=time.monotonic)

    @property
    def machine(self) -> Machine:
        return self.node.machine

    @property
    def slowness(self) -> float:
        """The factor for timeouts of this machine: an emulated Pi has one slow processor."""
        return 4.0 if self.versions.board.qemu.firmware == "uboot" else 1.0

    @property
    def cluster(self) -> bool:
        return self.version.flavour in CLUSTERS

    @property
    def distribution(self) -> DistributionUnderTest:
        """The distribution of its cluster."""
        return CLUSTERS[self.version.flavour]

    # --- queries

    def explain(self) -> dict[str, Any]:
        """Return the output of `edge-agent explain --json`."""
        explanation: dict[str, Any] = json.loads(self.node.run("edge-agent explain --json"))
        return explanation

    def read_standing(self) -> Standing:
        return Standing.of(self.explain())

    def wait_settled(self, timeout: float = 120.0) -> Standing:
        """Wait until the running slot is good and no update waits for that, and return the state."""
        timeout *= self.slowness
        end = time.monotonic() + timeout
        while True:
            standing = self.read_standing()
            if standing.state == "good" and standing.healthy and standing.pending != "switched":
                return standing
            assert time.monotonic() < end, f"after {timeout:g} s it still is: {standing}"
            time.sleep(2)

    def check_intact(self) -> None:
        """Assert that the data, and the cluster with its objects, have survived the update."""
        assert self.node.run(f"cat {KEPT_FILE}").strip() == "kept"
        if not self.cluster:
            return
        self.node.wait_until(f"{KUBECTL} wait --for=condition=Ready node --all", BOOT)
        items = json.loads(self.node.kubectl("get configmaps -o json"))["items"]
        configmaps = {
            item["metadata"]["name"]: item["data"] for item in items if item["metadata"]["name"].startswith("kept")
        }
        assert configmaps == {f"kept-{number}": {"number": str(number)} for number in range(OBJECTS)}
        self.node.wait_rolled_out("web")
        # After a fallback a unit of its own uncordons the node. It tries every 30 s, and the boot does not wait for it.
        self.node.wait_until("test ! -e /var/lib/kubernetes/cordoned", 180)
        assert not self.read_node()["spec"].get("unschedulable"), "the node was left cordoned"

    def read_node(self) -> dict[str, Any]:
        """Return the node object of its cluster."""
        node: dict[str, Any] = json.loads(self.node.kubectl("get nodes -o json"))["items"][0]
        return node

    def kubelet(self) -> str:
        """Return the Kubernetes version that the node reports."""
        return str(self.read_node()["status"]["nodeInfo"]["kubeletVersion"])

    # --- actions

    def publish(self, name: str) -> str:
        """Build the version of that name, unless it exists, and serve its bundle. Returns the URL."""
        return self.site.publish(self.versions.get(name, self.version.flavour).bundle, f"{name}.raucb")

    def install(self, source: str, *options: str, timeout: float = 900.0) -> list[dict[str, Any]]:
        """Install, and return the reported events. Raises `AssertionError` if the installation fails."""
        status, events = self.try_install(source, *options, timeout=timeout)
        if status:
            raise AssertionError(f"{events[-3:]}\n{self.node.command_outputs(INSTALL_DIAGNOSTICS)}")
        return events

    def install_refused(self, source: str, *options: str, timeout: float = 900.0) -> str:
        """Install a bundle that must be refused, and return the reason."""
        status, events = self.try_install(source, *options, timeout=timeout)
        assert status == 1, f"status {status}: {events[-3:]}"
        assert events[-1]["event"] == "error", events[-1]
        return str(events[-1]["text"])

    def try_install(self, source: str, *options: str, timeout: float = 900.0) -> tuple[int, list[dict[str, Any]]]:
        """Install, and return the exit status and the reported events."""
        arguments = ["sudo", "edge-agent", "update", "install", source, "--json", *options]
        result = self.node.guest.run(arguments, check=False, timeout=timeout * self.slowness)
        events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        assert events, f"status {result.status}: {result.stdout}{result.stderr}"
        return result.status, events

    def start_install(self, source: str, *options: str) -> None:
        """Start an installation in the background, see `start_command`."""
        self.start_command(f"edge-agent update install {source} --json {' '.join(options)}")

    def start_command(self, command: str) -> None:
        """Start a command in the background; its output is written to /var/lib/begun.log."""
        self.node.run(f"systemd-run --collect --unit=test-begun sh -c '{command} > /var/lib/begun.log 2>&1'")

    def reboot(self, *, timeout: float = BOOT) -> re.Match[str]:
        """Shut down, reboot, and wait for a complete boot."""
        self._ask_for_reboot()
        return self.wait_complete(timeout)

    def fall_back(self, timeout: float) -> None:
        """Reboot into a slot that fails, and wait until slot A runs again; `timeout` is for each boot."""
        # A Pi's watchdog resets it after a panic (see `test_uboot.py`). QEMU's Pi has no such watchdog and stays
        # halted, so its power is cut instead.
        pattern = f"{COMPLETE}|{HALTED}" if self.versions.board.uboot.watchdog else COMPLETE
        self._ask_for_reboot()
        while (match := self.machine.console.wait_for(pattern, timeout, through_panic=True))["slot"] != "a":
            if not match["slot"]:
                self.cut_power()
                self.machine.boot_again()
        self._reconnect()

    def wait_complete(self, timeout: float = BOOT) -> re.Match[str]:
        """Wait for a complete boot, through any failed boots before it, and then for SSH."""
        match = self.machine.console.wait_for(COMPLETE, timeout, through_panic=True)
        self._reconnect()
        return match

    def _ask_for_reboot(self) -> None:
        self.machine.console.skip()
        self.node.guest.run("sudo systemctl reboot", check=False)

    def _reconnect(self) -> None:
        self.node.guest.disconnect()
        self.node.guest.wait_ready(CONNECT)

    def cut_power(self) -> None:
        """Cut the power."""
        self.cuts += 1
        self.machine.power_cut()

    def power_on(self, timeout: float = BOOT) -> re.Match[str]:
        self.machine.boot_again()
        return self.wait_complete(timeout)

    def restore(self, state: str = READY) -> "Device":
        """Restore a saved state. Other devices with saved states are switched off before."""
        switch_off([device.machine for device in (self, *self.saved_devices)])
        self.machine.boot_again(state)
        self.node.guest.wait_ready(CONNECT)
        self.case_start = time.monotonic()
        return self

    @property
    def seconds(self) -> float:
        """Seconds since the case started."""
        return round(time.monotonic() - self.case_start, 1)


def switch_off(machines: Iterable[Machine]) -> None:
    """Cut the power of all running machines."""
    for machine in machines:
        if machine.running:
            machine.power_cut()


def prepare_device(device: Device) -> None:
    """Wait for a good first boot, and create the data that must survive."""
    device.wait_complete()
    device.node.wait_good(180)
    device.node.run(f"echo kept > {KEPT_FILE} && sync")
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
        device.node.wait_rolled_out("web")


@dataclass(frozen=True)
class Lab:
    """What all devices under test share; files of single devices are stored in `folder`."""

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
        """Power on a machine with a version's image, or with the raw `disk`, which it writes to, until the block ends.

        The raw disk `other`, if any, is a second disk, which sorts first if the board supports NVMe. Devices with saved
        states are switched off before.
        """
        switch_off([device.machine for device in self.saved])
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
            disk_size=None if disk else version.image.stat().st_size + EXTRA_SPACE,
            # A guest with one processor writes less at the same time, so that a power cut finds fewer states.
            cpus=CPUS if write_log and board.qemu.cpus is None else None,
        )  # fmt: skip
        if other:
            nvme = board.qemu.disk == "virtio"
            config = replace(config, nvme=(other,)) if nvme else replace(config, disks=(*config.disks, other))
        path = LOGS_FOLDER / f"{log}-{board.name}.log"
        with Machine(config, log=path, emulator=qemu, accelerator=self.accelerator) as machine:
            device = Device(Node(machine, machine.guest(USER, self.key)), version, self.versions, self.site, self.saved)
            try:
                yield device
            finally:
                self.saved[:] = [saved for saved in self.saved if saved is not device]

    @contextmanager
    def ready(self, flavour: str, log: str, *, other: Path | None = None) -> Iterator[Device]:
        """Power on a device with version N and wait until it is healthy; the raw disk `other` is a second disk."""
        with self.powered(self.versions.get("n", flavour, bundle=False), log, other=other) as device:
            prepare_device(device)
            yield device

    def save(self, device: Device) -> None:
        """Save its state for `Device.restore`, also for use after tests of other devices."""
        device.machine.save(READY)
        self.saved.append(device)


def raw_disk(version: Version, target: Path) -> Path:
    """Make a sparse copy of a version's image, with the size of the devices' disks."""
    run_command(["cp", "--sparse=always", version.image, target])
    with target.open("r+b") as file:
        file.truncate(version.image.stat().st_size + EXTRA_SPACE)
    return target
