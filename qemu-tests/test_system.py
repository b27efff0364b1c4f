"""Tests for all images, on the smallest one: identities from seeds, detected damage, failed boots."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.machines import MachineFactory
from support.nodes import (
    BOOT,
    COMPLETE,
    CONNECT,
    LOGS_FOLDER,
    MEMORY,
    USER,
    Node,
    image_tools,
    make_seed,
    render_seed_of,
)
from support.second_disk import UBOOT_USES, USES, copy_disk, disks_in_use, list_disks

from osbuild.config.board import Board
from osbuild.config.checks import accounts
from osbuild.config.load import find_profile, load_profile
from osbuild.formats import gpt
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, file_digest
from osbuild.host.paths import PROJECT
from osbuild.host.run import run_command
from osbuild.inputs.lock import read_lock
from osbuild.inspection.image import inspect_image
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.config import MachineNetwork as UserNetwork
from osbuild.qemu.disk import card_size
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair
from osbuild.sandbox.tools_tree import make_tools_tree
from osbuild.seed import esp_seed
from osbuild.shared import uboot_state
from osbuild.shared.uboot_state import BootCounter, UBootState

DISK_SIZE = 4 * 2**30
# A message of each kind of firmware on the console, whatever is on the disk.
FIRMWARE = {"uefi": r"BdsDxe: starting Boot", "uboot": r"Loading Environment from FAT"}
# Settings that limit a process that has escaped from its container.
SYSCTLS = {
    "kernel.dmesg_restrict": "1",
    "kernel.kexec_load_disabled": "1",
    "kernel.kptr_restrict": "1",
    "kernel.perf_event_paranoid": "3",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.yama.ptrace_scope": "1",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv6.conf.default.accept_redirects": "0",
}
# Services that run the commands of a seed, which have all permissions of root and change the whole system.
RUN_COMMANDS_OF_SEEDS = {"edge-cloud-init.service", "edge-cloud-final.service"}
LIMITS = {True: 8.0, False: 5.0}  # exposure (systemd-analyze(1)) of a service that runs commands of seeds, or not
# A VLAN on the machine's interface, a bridge over another VLAN, and routes on both.
MAC = UserNetwork().mac
NETWORK = (
    f'network.interfaces=[{{name: lan, mac: "{MAC}"}}]',
    "network.vlans=[{name: mgmt, id: 20, link: lan, dhcp: false, addresses: [192.0.2.10/24],"
    " routes: [{to: 198.51.100.0/24, via: 192.0.2.1, metric: 70}]}, {name: vlan30, id: 30, link: lan}]",
    "network.bridges=[{name: br0, members: [vlan30], dhcp: false, addresses: ['192.0.2.129/25', '2001:db8::10/64'],"
    " search: [site.example]}]",
)
SPACE = "lsblk -bndo SIZE /dev/edge/data; df -B1 --output=size /var | tail -n 1"
ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64", "armv7": "armv7l"}


def make_other_card(image: Path, key: KeyPair, target: Path) -> Path:
    """Make a card of the same image for another node, with a seed on its ESP."""
    seed = render_seed_of("minimal", "stranger", key)
    offset = next(partition.offset for partition in gpt.read_table(image).partitions if partition.name == "esp")
    esp_seed.write_seed(seed.with_sums(), copy_disk(image, target), offset, wrap=esp_seed.find_mtools(Cache()))
    return target


def make_good(board: Board, disk: Path) -> None:
    """Mark slot A of a new disk image as good, so that its boots are not counted."""
    partitions = {partition.name: partition for partition in gpt.read_table(disk).partitions}
    if board.boot == "uboot":
        state = UBootState(3, counters={"a": BootCounter(None), "b": BootCounter()})
        with disk.open("r+b") as file:
            for offset in uboot_state.COPY_OFFSETS:
                file.seek(partitions[uboot_state.PARTITION].offset + offset)
                file.write(state.encode())
        return
    rename = [
        "mren",
        "-i",
        f"{disk}@@{partitions['esp'].offset}",
        "::EFI/Linux/edge-1-a+3.efi",
        "::EFI/Linux/edge-1-a.efi",
    ]
    run_command(esp_seed.find_mtools(Cache())(rename, [disk.parent]))


def plug_disk(node: Node, disk: Path) -> None:
    """Plug in another NVMe disk, a copy of the file `disk`, at the PCIe port `spare`."""
    copy = copy_disk(disk, node.machine.folder / "late.img")
    file = {"driver": "file", "filename": str(copy)}
    node.machine.qmp("blockdev-add", driver="raw", node_name="late", file=file)
    node.machine.qmp("device_add", driver="nvme", id="late", drive="late", serial="late", bus="spare")
    node.wait_until("test -b /dev/nvme1n1p5 && udevadm settle", 60)


def with_empty_data(board: Board, disk: Path, folder: Path) -> Path:
    """Add a data partition of zeros to a disk image."""
    definitions = folder / "repart.d"
    definitions.mkdir()
    text = "[Partition]\nType=linux-generic\nLabel=data\nSizeMinBytes=256M\n"
    (definitions / "50-data.conf").write_text(text)
    command = ["systemd-repart", "--dry-run=no", "--offline=yes", f"--definitions={definitions}", str(disk)]
    image_tools(board).run_command(command, [disk.parent, folder])
    return disk


def extent(board: Board, image: Path, path: str) -> int:
    """Return the offset in bytes, in the erofs `image`, of the first block of a file's data (dump.erofs(1))."""
    text = image_tools(board).run_command(["dump.erofs", f"--path={path}", "-e", image], [image])
    first = re.search(r"^\s*0:.*?\|\s*\d+\s*:\s*(\d+)\.\.", text, re.MULTILINE)
    assert first, text
    return int(first[1])


def flip_bit(board: Board, disk: Path, image: Path, path: str) -> None:
    """Flip one bit of one byte in the middle of a file's first block, in slot A of `disk`."""
    slot = next(partition for partition in gpt.read_table(disk).partitions if partition.name == "root-a")
    with disk.open("r+b") as file:
        file.seek(slot.offset + extent(board, image, path) + 1024)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))


def tries(disk: Path) -> tuple[int | None, int | None]:
    """Return tries left and used of slot A on a disk image."""
    (entry,) = [entry for entry in inspect_image(disk).entries if re.match(r"edge-(\d+-)?a\b", Path(entry.path).name)]
    return entry.tries_left, entry.tries_done


def boot(
    machine: MachineFactory, board: Board, disk: Path, seed: Path, key: KeyPair, *, extra: tuple[str, ...] = ()
) -> Node:
    booted = machine(MachineConfig(board=board, image=disk, memory=MEMORY, media=(seed,), extra=extra))
    return Node(booted, booted.guest(USER, key))


STATE_FILES = ("pending.json", "history.jsonl", "boots.jsonl", "verdict.json", "floor")
DAMAGE = (
    "cd /var/lib/edge-osbuild/update && for name in "
    + " ".join(STATE_FILES)
    + "; do head -c 99 /dev/zero > $name; done; "
    "edge-agent update boot 2>&1; edge-agent explain 2>&1; edge-agent update commit 2>&1; cat floor; ls"
)


@dataclass(frozen=True)
class NetworkState:
    """The state of the network in the kernel (`ip -json`, links by name) and in systemd-resolved."""

    links: dict[str, Any]
    routes: list[dict[str, Any]]
    resolver: str

    @classmethod
    def ask(cls, node: Node) -> "NetworkState":
        links = {link["ifname"]: link for link in json.loads(node.run("ip -json -details addr"))}
        return cls(links, json.loads(node.run("ip -json route")), node.run("resolvectl status --no-pager"))


@dataclass(frozen=True)
class NodeReport:
    """The state of a booted node, read by its own programs."""

    console: str
    hostname: str
    machine_id: str
    host_key: str
    processor: str
    root: str
    login: str
    """the text above the console's login prompt"""
    users: set[str]
    groups: set[str]
    disks: set[str]
    """names of all disks"""
    used: dict[str, str]
    """the disk of each of `second_disk.USES`"""
    later: dict[str, str]
    """`used` after another disk was plugged in; empty if none was"""
    space: list[int]
    """bytes of the data partition, and of its file system"""
    status: dict[str, Any]
    lockdown: str
    """the kernel's lockdown modes from securityfs; the active one is in brackets"""
    settings: dict[str, str]
    """values of `SYSCTLS`, by name"""
    confined: str
    """`NoNewPrivileges=` of the loaded units that apply the seed and check the boot"""
    clock: int
    """seconds since 1970"""
    network: NetworkState
    damage: str
    """output of the edge agent after its files about updates were filled with zeros"""

    @classmethod
    def ask(cls, node: Node) -> "NodeReport":
        """Wait until the boot of `node` is complete, then read its state."""
        node.wait_complete()
        node.guest.wait_ready(CONNECT)
        node.wait_good()
        key = node.run("cat /var/lib/edge-osbuild/identity/ssh/ssh_host_ed25519_key.pub").split()[1]
        lines = node.run("hostname; cat /etc/machine-id; uname -m; findmnt -no SOURCE,FSTYPE /").split("\n")
        login = node.run("script -qec 'agetty --show-issue' /dev/null")  # agetty needs a terminal
        users, groups = (set(node.run(f"cut -d: -f1 /etc/{name}").split()) for name in ("passwd", "group"))
        space = [int(size) for size in node.run(SPACE).split()]
        lockdown = node.run("cat /sys/kernel/security/lockdown")
        files = " ".join(f"/proc/sys/{name.replace('.', '/')}" for name in SYSCTLS)
        settings = dict(zip(SYSCTLS, node.run(f"sudo cat {files}").split(), strict=True))
        confined = node.run("systemctl show -P NoNewPrivileges edge-seed.service edge-health.service")
        return cls(
            node.machine.console.text, lines[0], lines[1], key, lines[2], lines[3], login, users, groups,
            list_disks(node), disks_in_use(node), {}, space, node.status(), lockdown, settings, confined,
            int(node.run("date +%s")), NetworkState.ask(node), node.run(DAMAGE),
        )  # fmt: skip


@pytest.fixture(scope="module")
def first(
    board: Board, image: Callable[[str], Path], qemu: Emulator, accelerator: Accelerator, key: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> NodeReport:  # fmt: skip
    """The first boot of the node `first`, which is powered off again. The machine has another node's card too."""
    folder = tmp_path_factory.mktemp("seed")
    seed = make_seed("minimal", "first", key, folder / "first.iso", settings=NETWORK)
    other_card = make_other_card(image("minimal") / "disk.img", key, folder / "other.img")
    config = MachineConfig(
        board=board, image=image("minimal") / "disk.img", memory=MEMORY, media=(seed,), disk_size=DISK_SIZE
    )
    nvme = board.qemu.disk == "virtio"
    port = ("-device", "pcie-root-port,id=spare,chassis=9,slot=9")
    config = replace(config, nvme=(other_card,), extra=port) if nvme else replace(config, disks=(other_card,))
    before = file_digest(other_card)
    log = LOGS_FOLDER / f"first-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as booted:
        node = Node(booted, booted.guest(USER, key))
        observed = NodeReport.ask(node)
        # QEMU's ARMv7 machine does not show a disk that is hot-plugged at a PCIe port, not even after a rescan.
        if nvme and board.architecture is not Architecture.armv7:
            plug_disk(node, other_card)
            observed = replace(observed, later=disks_in_use(node))
    assert file_digest(other_card) == before, "something was written to the other node's card"
    return observed


def test_an_image_boots_from_power_on_to_boot_complete(
    board: Board, image: Callable[[str], Path], first: NodeReport
) -> None:
    assert re.search(FIRMWARE[board.qemu.firmware], first.console)
    match = re.search(COMPLETE, first.console)
    assert match and (match[1], match[3]) == ("minimal", "a")
    assert first.processor == ARCHITECTURES[board.architecture]
    assert first.root == "/dev/dm-0 erofs"
    status = first.status
    assert status["health"]["healthy"] is True and all(check["ok"] for check in status["health"]["checks"])
    assert status["boot"]["state"] == "good", "a good boot is not counted any more"
    for name in STATE_FILES:
        assert f"{name} is damaged: " in first.damage, first.damage
        assert f"{name}.damaged" in first.damage
    assert "Traceback" not in first.damage
    trust = json.loads((image("minimal") / "manifest.json").read_text())["trust"]
    assert ("DEVELOPMENT keys" in first.login) == trust["development"], first.login
    # A profile's users must not have these names.
    declared = accounts.declared_accounts([PROJECT / "overlays" / name for name in ("base", "ota")])
    assert (first.users - {USER}, first.groups - {USER}) == tuple(map(set, declared))


def test_a_node_is_hardened(board: Board, first: NodeReport) -> None:
    assert ("[integrity]" in first.lockdown) == board.architecture.has_signed_modules()
    assert first.settings == SYSCTLS
    assert first.confined.split() == ["yes", "yes"]


def test_every_unit_of_ours_is_sandboxed(tmp_path: Path) -> None:
    loaded = load_profile(find_profile("minimal"))
    lock = read_lock(loaded, Architecture.native())
    assert lock is not None, "the image was built, so there is a lock"
    for overlay in ("base", "ota", "kubernetes"):
        shutil.copytree(PROJECT / "overlays" / overlay, tmp_path, dirs_exist_ok=True, symlinks=True)
    units = sorted(path.name for path in (tmp_path / "usr/lib/systemd/system").glob("edge-*.service"))
    assert len(units) > 10
    tools = make_tools_tree(Cache(), lock.image_tools)
    for unit in units:
        limit = LIMITS[unit in RUN_COMMANDS_OF_SEEDS]
        tools.run_command(
            [
                "systemd-analyze", "security", f"--root={tmp_path}", "--offline=yes", f"--threshold={limit * 10:g}",
                "--no-pager", unit,
            ],
            [tmp_path],
        )  # fmt: skip


def test_vlans_bridges_and_routes_of_a_seed_are_there(first: NodeReport) -> None:
    network = first.network

    def addresses(name: str) -> set[str]:
        return {f"{entry['local']}/{entry['prefixlen']}" for entry in network.links[name]["addr_info"]}

    physical = next(name for name, link in network.links.items() if link.get("address") == MAC and "link" not in link)
    assert network.links["mgmt"]["link"] == physical
    assert network.links["mgmt"]["linkinfo"]["info_data"]["id"] == 20
    assert network.links["vlan30"]["linkinfo"]["info_data"]["id"] == 30
    assert network.links["vlan30"]["master"] == "br0" and network.links["br0"]["linkinfo"]["info_kind"] == "bridge"
    assert "192.0.2.10/24" in addresses("mgmt")
    assert {"192.0.2.129/25", "2001:db8::10/64"} <= addresses("br0")
    assert not [entry for entry in network.links["vlan30"]["addr_info"] if entry["family"] == "inet"]
    assert {"dst": "198.51.100.0/24", "gateway": "192.0.2.1", "dev": "mgmt", "metric": 70}.items() <= {
        key: value for route in network.routes if route["dst"] == "198.51.100.0/24" for key, value in route.items()
    }.items()
    assert "site.example" in network.resolver
    assert "+LLMNR" not in network.resolver and "+mDNS" not in network.resolver


def test_a_device_uses_only_the_disk_that_it_was_booted_from(board: Board, first: NodeReport) -> None:
    """The other disk is a copy of the same image, sorts first (NVMe), and has the same GUIDs at this first boot."""
    booted, other = ("vda", "nvme0n1") if board.qemu.disk == "virtio" else ("mmcblk0", "sda")
    assert {booted, other} <= first.disks
    assert first.used.keys() == USES | (UBOOT_USES if board.boot == "uboot" else set())
    assert set(first.used.values()) == {booted}
    if first.later:
        assert first.later == first.used, "a disk that is plugged in later changes nothing"


def test_the_data_partition_fills_the_booted_disk(first: NodeReport) -> None:
    """The image has room for 1 GiB of data, and the disk for more."""
    assert all(size > 2 * 2**30 for size in first.space), first.space


UNIT, DROPIN = "/etc/systemd/system/hello.service", "/etc/systemd/system/systemd-timesyncd.service.d/90-proxy.conf"
# Typical mistakes in user-data, and entries beside them that must work anyway.
MISTAKES: dict[str, Any] = {
    "packages": ["tcpdump"],
    "timezone": "Mars/Olympus",
    "write_files": [
        {"path": "/etc/machine-id/below", "content": "no folder"},
        {"path": UNIT, "content": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo hi > /run/hello'\n"},
        {"path": "/etc/systemd/system/broken.service", "content": "[Service]\nExecStart=/bin/false\n"},
        {"path": DROPIN, "content": "[Service]\nEnvironment=HTTPS_PROXY=http://192.0.2.99:3128\n"},
        {"path": "/etc/sysctl.d/90-seed.conf", "content": "kernel.panic = 17\nno.such.setting = 1\n"},
        {"path": "/home/" + USER + "/late", "content": "late", "owner": USER + ":" + USER, "defer": True},
    ],
    "mounts": [
        ["/dev/none1", "/srv/data", "ext4", "defaults", "0", "2"],
        ["/dev/edge/data", "/srv/again", "ext4", "defaults", "0", "0"],
        ["tmpfs", "/srv/scratch", "tmpfs", "size=8m"],
    ],
    "ntp": {"servers": ["192.0.2.123"]},
    "runcmd": [
        ["systemctl", "start", "hello.service"],
        ["systemctl", "start", "broken.service"],
        ["sleep", "infinity"],
    ],
}


@pytest.mark.slow  # `make test` has two nodes of one image in test_fleet
def test_two_seeds_make_two_nodes_of_one_image(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path, first: NodeReport
) -> None:
    """The second node's data partition contains zeros, so it gets a new file system."""
    # The error in network-config affects only the network: the node uses DHCP, and its user exists.
    broken = "version: 2\nbonds:\n  bond0: {interfaces: [enp9s0]}\n"
    seed = make_seed("minimal", "second", key, tmp_path / "second.iso", network=broken, user_data=MISTAKES)
    battery_is_empty = ("-rtc", "base=2001-02-03")
    disk = with_empty_data(board, copy_disk(image("minimal") / "disk.img", tmp_path / "disk.img"), tmp_path)
    node = boot(machine, board, disk, seed, key, extra=battery_is_empty)
    second = NodeReport.ask(node)
    assert "has no file system any more: creating a new one" in second.console
    read_guids = "sfdisk --disk-id /dev/edge/disk; sfdisk --part-uuid /dev/edge/disk 1"
    table = gpt.read_table(image("minimal") / "disk.img")
    guids = {str(table.uuid), str(table.partitions[0].uuid)}
    assert not guids & set(node.run(read_guids).lower().split()), "a node's disk is told from others of its image"
    lock = read_lock(load_profile(find_profile("minimal")), board.name)
    assert lock and second.clock >= lock.epoch, "a clock never starts before the date of the image"
    assert (first.hostname, second.hostname) == ("first", "second")
    assert first.machine_id != second.machine_id and first.host_key != second.host_key
    assert second.status["health"]["healthy"] is True
    if board.architecture is Architecture.x86_64:
        absent = "serial-getty@ttyS2.service"  # the kernel has a device for it, the machine no port
        node.run(f"sudo systemctl start {absent}; sleep 3")
        assert sorted(node.run(f"systemctl show -P ActiveState -P NRestarts {absent}").split()) == ["0", "inactive"]
        assert node.run("systemctl is-active serial-getty@ttyS0.service").strip() == "active"
    assert "network-config, line 3, column 24: bond0: interface 'enp9s0' is not defined" in second.console
    assert "DHCP on every Ethernet interface instead" in second.console
    assert any("'enp9s0' is not defined" in problem for problem in second.status["network"]["problems"])
    assert second.status["boot"]["state"] == "good"
    mistakes_cost_only_themselves(node, second)


def mistakes_cost_only_themselves(node: Node, second: NodeReport) -> None:
    """Assert that all other entries of a seed with `MISTAKES` work."""
    seed_status = second.status["seed"]
    for line in ("write_files, /etc/machine-id/below", "mounts, /dev/none1: there is no device", "timezone: "):
        assert any(error.startswith(line) for error in seed_status["errors"]), seed_status
    assert any("`packages` has no effect" in line for line in seed_status["warnings"]), seed_status
    assert "edge-osbuild: seed error: write_files, /etc/machine-id/below" in second.console
    assert "cc_edge.py[ERROR]" in node.run("journalctl -b --no-pager -u edge-cloud-init.service")
    assert "Loaded datasource" in node.run("cat /run/cloud-init/cloud-init.log")
    status_output = node.guest.run("sudo edge-agent status", check=False).stdout
    assert "seed error: timezone: " in status_output and "15-seed" in status_output
    # The correct entries have taken effect, although systemd had read its units before.
    node.wait_until("test -s /run/hello", 60)
    assert node.run(f"cat /home/{USER}/late") == "late"
    kinds = {
        folder: node.run(f"findmnt --noheadings --output FSTYPE /srv/{folder}").strip()
        for folder in ("again", "scratch")
    }
    assert kinds == {"again": "ext4", "scratch": "tmpfs"}
    process = "/proc/$(systemctl show --property=MainPID --value systemd-timesyncd)/environ"
    assert "HTTPS_PROXY=http://192.0.2.99:3128" in node.run(f"tr '\\0' '\\n' < {process}")
    assert "192.0.2.123" in node.run("timedatectl show-timesync --property=SystemNTPServers")
    assert node.run("sysctl -n kernel.panic").strip() == "17"
    # A unit of the seed fails, and a script of the seed never ends, but the image is healthy.
    node.wait_until("systemctl is-failed broken.service", 60)
    assert node.run("edge-agent health | grep 10-systemd").startswith("ok")
    assert node.run("edge-agent seed blame broken.service").strip() == "broken.service"
    # The medium can replace the seed of a running node, but is ignored at the next boot.
    device = node.run("blkid --label CIDATA || blkid --label cidata").strip()
    assert "is applied at the next boot" in node.run(f"edge-agent seed apply {device}")
    assert node.run("edge-agent seed find --wait 0").strip().endswith("seed: stored")


def test_a_flipped_byte_in_a_program_of_a_good_slot_is_detected_by_verity_and_never_executed(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    disk = copy_disk(image("minimal") / "disk.img", tmp_path / "disk.img")
    make_good(board, disk)
    flip_bit(board, disk, image("minimal") / "root.erofs", "/usr/bin/less")
    node = boot(machine, board, disk, make_seed("minimal", "damaged", key, tmp_path / "seed.iso"), key)
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    output = node.run_failing("less --version")
    assert "less 6" not in output and "GNU" not in output
    assert "data block" in node.run("dmesg | grep -i verity") and "corrupted" in node.run("dmesg | grep -i verity")


def test_damage_restarts_a_slot_on_trial_and_uses_up_its_tries(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    disk = copy_disk(image("minimal") / "disk.img", tmp_path / "disk.img")
    flip_bit(board, disk, image("minimal") / "root.erofs", "/usr/lib/systemd/systemd")
    assert tries(disk) == (3, 0)
    if board.qemu.disk == "sd":
        os.truncate(disk, card_size(disk, None))
    booted = machine(MachineConfig(board=board, memory=MEMORY, disks=(disk,)))
    booted.console.wait_for(r"dm-verity device corrupted", BOOT, through_panic=True)
    assert not booted.console.text.count("boot complete")
    booted.wait_for_event("RESET", 120)
    booted.console.skip()
    booted.console.wait_for(r"dm-verity device corrupted", BOOT, through_panic=True)
    booted.power_cut()
    assert tries(disk) == (1, 2), "two boots failed"


@pytest.mark.slow
def test_an_unhealthy_boot_uses_one_try(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    check = {
        "path": "/etc/edge-osbuild/health.d/99-bad",
        "permissions": "0755",
        "content": "#!/bin/sh\necho no till; exit 1\n",
    }
    # In the format of Proxmox VE: the interface with this address gets another name.
    renamed = {"type": "physical", "name": "wan7", "mac_address": MAC.upper(), "subnets": [{"type": "dhcp4"}]}
    network = json.dumps({"version": 1, "config": [renamed]})
    seed = make_seed(
        "minimal", "unhealthy", key, tmp_path / "seed.iso", user_data={"write_files": [check]}, network=network
    )
    node = boot(machine, board, image("minimal") / "disk.img", seed, key)
    node.guest.wait_ready(BOOT)
    assert [entry["family"] for entry in json.loads(node.run("ip -json -4 addr show dev wan7"))[0]["addr_info"]]
    node.wait_until("systemctl is-active multi-user.target", 120)
    status = node.status()
    assert (status["boot"]["state"], status["boot"]["left"], status["boot"]["done"]) == ("trial", 2, 1)
    assert status["health"]["healthy"] is False
    assert {c["name"]: c["output"] for c in status["health"]["checks"] if not c["ok"]} == {"99-bad": "no till"}
    assert COMPLETE not in node.machine.console.text
    node.machine.console.skip()
    node.guest.run("sudo systemd-run --no-block edge-agent health --boot --deadline 0", check=False)
    node.machine.wait_for_event("RESET", 120)
    node.guest.disconnect()
    node.guest.wait_ready(BOOT)
    assert (node.status()["boot"]["left"], node.status()["boot"]["done"]) == (1, 2)
