"""The command lines that machines are started with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from osbuild.config.board import Board, QemuBoard, default_board, load_board, shipped_boards
from osbuild.config.metadata import Size
from osbuild.host.architecture import Architecture
from osbuild.qemu.acceleration import Accelerator, choose_accelerator
from osbuild.qemu.bad_sectors import BadSectors
from osbuild.qemu.command import command_line, cpu_count
from osbuild.qemu.config import DirectKernel, Forward, MachineConfig, MachineNetwork
from osbuild.qemu.files import DISK, Drive, MachineFiles
from osbuild.qemu.firmware import UEFI, find_firmware
from osbuild.qemu.network_card import parse_forward
from osbuild.qemu.session import Session
from osbuild.shared.errors import Error, UsageError

FILES = MachineFiles(
    qmp=Path("/w/qmp"),
    console=Path("/w/console"),
    log=Path("/logs/a,b.log"),
    drives=(
        Drive(DISK, Path("/w/disk,1.qcow2"), "qcow2", volatile=True),
        Drive("media0", Path("/seed.iso"), "raw", readonly=True),
    ),
    code=Path("/code.fd"),
    vars=Path("/w/vars.fd"),
)
TCG = Accelerator("tcg", "max")
PI = Board(
    name="pi",
    description="a board with neither PCI nor flash",
    architecture=Architecture.arm64,
    boot="uboot",
    qemu=QemuBoard(
        machine="raspi3b", firmware="uboot", uboot="u-boot.bin", device_tree="dtbs/pi.dtb", memory=Size(2**30), cpus=4,
        disk="sd", network="usb", serial=1,
    ),
)  # fmt: skip


def value(command: list[str], option: str) -> str:
    (place,) = [number for number, word in enumerate(command) if word == option]
    return command[place + 1]


def values(command: list[str], option: str) -> list[str]:
    return [command[number + 1] for number, word in enumerate(command) if word == option]


@pytest.mark.parametrize("name", shipped_boards())
def test_processors_of_a_fixed_number_run_in_turns(name: str) -> None:
    board = load_board(name)
    arguments = choose_accelerator(board, "tcg").arguments[1].split(",")
    assert ("thread=single" in arguments) == (board.qemu.cpus is not None)


@pytest.mark.parametrize(
    ("architecture", "program", "machine", "cpu"),
    [
        (Architecture.x86_64, "qemu-system-x86_64", "q35", "max"),
        (Architecture.arm64, "qemu-system-aarch64", "virt", "cortex-a72"),
        (Architecture.armv7, "qemu-system-arm", "virt,highmem=off", "cortex-a15"),
    ],
)
def test_each_architecture_has_its_machine(architecture: Architecture, program: str, machine: str, cpu: str) -> None:
    board = default_board(architecture)
    command = command_line(MachineConfig(board=board), FILES, choose_accelerator(board, "tcg"))
    assert command[0] == program
    assert value(command, "-machine") == machine
    assert value(command, "-cpu") == cpu
    assert value(command, "-accel").startswith("tcg,thread=multi")
    assert values(command, "-drive") == [
        "if=pflash,unit=0,format=raw,readonly=on,file=/code.fd",
        "if=pflash,unit=1,format=raw,readonly=off,file=/w/vars.fd,cache=unsafe",
    ]


def test_a_machine_starts_paused_with_nothing_it_was_not_given() -> None:
    command = command_line(MachineConfig(), FILES, TCG)
    assert {"-S", "-nodefaults", "-no-user-config"} <= set(command)


def test_memory_is_given_in_bytes_and_passed_exactly() -> None:
    command = command_line(MachineConfig(memory=1536 * 2**20, cpus=3), FILES, TCG)
    assert value(command, "-m") == f"size={1536 * 1024}k"
    assert value(command, "-smp") == "3"


def test_a_comma_in_a_path_is_escaped() -> None:
    command = command_line(MachineConfig(), FILES, TCG)
    assert "logfile=/logs/a,,b.log,logappend=on" in values(command, "-chardev")[1]
    assert json.loads(values(command, "-blockdev")[0])["file"]["filename"] == "/w/disk,1.qcow2"


def test_only_a_volatile_disk_is_written_without_fsync_and_media_are_read_only() -> None:
    disk, seed = (json.loads(text) for text in values(command_line(MachineConfig(), FILES, TCG), "-blockdev"))
    assert (disk["cache"]["no-flush"], disk["file"]["cache"]["no-flush"], disk["read-only"]) == (True, True, False)
    assert (seed["cache"]["no-flush"], seed["read-only"], seed["file"]["read-only"]) == (False, True, True)


def test_a_disk_whose_writes_are_logged_is_the_same_disk_behind_its_log() -> None:
    disk, seed = FILES.drives
    files = replace(FILES, drives=(replace(disk, log=Path("/logs/w,1")), seed))
    command = command_line(MachineConfig(), files, TCG)
    node, _ = (json.loads(text) for text in values(command, "-blockdev"))
    assert (node["driver"], node["node-name"], node["log-append"]) == ("blklogwrites", "disk0", True)
    assert node["log"]["filename"] == "/logs/w,1"
    assert (node["cache"]["no-flush"], node["log"]["cache"]["no-flush"]) == (False, True), "flushes are to be logged"
    below = {**node["file"], "node-name": "disk0"}
    assert below == json.loads(values(command_line(MachineConfig(), FILES, TCG), "-blockdev")[0])
    logged, plain = values(command, "-device")[2:4]
    assert logged.startswith("virtio-blk-pci,drive=disk0,") and logged.endswith(",request-merging=off")
    assert "merging" not in plain
    arguments = value(command_line(MachineConfig(board=PI), replace(files, code=None, vars=None), TCG), "-drive").split(
        ","
    )
    assert arguments[:3] == ["if=sd", "driver=blklogwrites", "node-name=disk0"]
    assert {"file.driver=qcow2", "file.file.cache.no-flush=on", "log-append=on"} <= set(arguments)
    assert "log.filename=/logs/w,,1" in ",".join(arguments)


def test_an_nvme_disk_has_a_controller_of_its_own_where_there_is_pci() -> None:
    drives = (*FILES.drives, Drive("nvme1", Path("/other.img"), "raw", bus="nvme"))
    command = command_line(MachineConfig(), replace(FILES, drives=drives), TCG)
    assert values(command, "-device")[-2] == "nvme,drive=nvme1,id=dev-nvme1,serial=nvme1", (
        "and no place in the boot order"
    )
    with pytest.raises(Error, match="no PCI for nvme disks"):
        command_line(MachineConfig(board=PI), replace(FILES, drives=drives, code=None, vars=None), TCG)


def test_only_a_raw_disk_has_sectors_that_can_break() -> None:
    for drive in (FILES.drives[0], replace(FILES.drives[0], format="raw", log=Path("/l")), FILES.drives[1]):
        with pytest.raises(Error, match="does not support bad sectors"):
            BadSectors(cast(Session, None), drive)


def test_ssh_is_forwarded_from_a_port_of_qemus_choice_on_loopback_only() -> None:
    netdev = json.loads(value(command_line(MachineConfig(), FILES, TCG), "-netdev"))
    assert netdev["hostfwd"] == [{"str": "tcp:127.0.0.1:0-:22"}]
    assert netdev["restrict"] is False


def test_a_restricted_network_keeps_its_forwards() -> None:
    network = MachineNetwork(forwards=(Forward(22, 2222), Forward(6443)), restrict=True)
    netdev = json.loads(value(command_line(MachineConfig(network=network), FILES, TCG), "-netdev"))
    assert netdev["restrict"] is True
    assert [rule["str"] for rule in netdev["hostfwd"]] == ["tcp:127.0.0.1:2222-:22", "tcp:127.0.0.1:0-:6443"]


def test_without_network_there_is_only_a_port_for_a_card() -> None:
    command = command_line(MachineConfig(network=None), FILES, TCG)
    assert "-netdev" not in command
    assert not any("virtio-net" in word for word in command)
    assert any(word.startswith("pcie-root-port,id=netport") for word in command)


def test_a_direct_kernel_and_extra_arguments_are_passed_on() -> None:
    config = MachineConfig(direct=DirectKernel(Path("/k"), Path("/i"), "console=ttyS0"), extra=("-rtc", "base=utc"))
    command = command_line(config, MachineFiles(Path("/q"), Path("/c"), Path("/l")), TCG)
    assert (value(command, "-kernel"), value(command, "-initrd")) == ("/k", "/i")
    assert value(command, "-append") == "console=ttyS0"
    assert command[-2:] == ["-rtc", "base=utc"]
    assert "-drive" not in command


def test_kvm_runs_on_the_hosts_own_processor() -> None:
    command = command_line(MachineConfig(watchdog=True), FILES, Accelerator("kvm", "host"))
    assert (value(command, "-accel"), value(command, "-cpu")) == ("kvm", "host")
    assert "i6300esb" in values(command, "-device")


def test_kvm_is_never_used_for_another_architecture() -> None:
    foreign = Architecture.arm64 if Architecture.native() is not Architecture.arm64 else Architecture.x86_64
    for board, why in (
        (default_board(foreign), "this host is"),
        (replace(PI, architecture=Architecture.native()), "fixed processor"),
    ):
        assert choose_accelerator(board, "auto").name == "tcg"
        with pytest.raises(Error, match=f"KVM cannot run this guest: .*{why}"):
            choose_accelerator(board, "kvm")


@pytest.mark.parametrize("architecture", list(Architecture))
def test_firmware_is_looked_up_below_the_root_that_qemu_runs_in(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        find_firmware(architecture, tmp_path)
    assert UEFI[architecture].package in (caught.value.hint or "")
    for name in (UEFI[architecture].code[-1], UEFI[architecture].vars[-1]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    firmware = find_firmware(architecture, tmp_path)
    assert firmware.code == Path("/", UEFI[architecture].code[-1])
    assert firmware.template == tmp_path / UEFI[architecture].vars[-1]


def test_the_forwarded_port_is_read_from_what_qemu_says() -> None:
    text = (
        "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[HOST_FORWARD]   3       127.0.0.1 43051       10.0.2.15    22     0     0\r\n"
        "  TCP[ESTABLISHED]    5       10.0.2.15 22          127.0.0.1  6443     0     0\r\n"
    )
    assert parse_forward(text, 22) == 43051
    with pytest.raises(Error, match="port 6443 of the guest is not forwarded"):
        parse_forward(text, 6443)


def test_a_board_without_pci_has_its_disk_in_the_card_slot_and_all_else_on_usb() -> None:
    files = replace(FILES, code=None, vars=None, uboot=Path("/w/u-boot.bin"), device_tree=Path("/w/pi.dtb"))
    command = command_line(MachineConfig(board=PI), files, choose_accelerator(PI, "tcg"))
    assert (value(command, "-kernel"), value(command, "-dtb")) == ("/w/u-boot.bin", "/w/pi.dtb")
    assert value(command, "-drive").startswith("if=sd,format=qcow2,node-name=disk0,cache=unsafe,")
    assert value(command, "-drive").endswith("file=/w/disk,,1.qcow2")
    assert json.loads(value(command, "-blockdev"))["node-name"] == "media0"
    assert [json.loads(word)["driver"] if word[0] == "{" else word.partition(",")[0]
            for word in values(command, "-device")] == ["usb-storage", "usb-net"]  # fmt: skip
    assert "-cpu" not in command, "the machine has a fixed processor model"


def test_the_console_is_the_serial_port_that_the_board_says() -> None:
    assert values(command_line(MachineConfig(board=PI), FILES, TCG), "-serial") == ["null", "chardev:console"]
    assert values(command_line(MachineConfig(), FILES, TCG), "-serial") == ["chardev:console"]


def test_a_board_has_the_memory_and_processors_that_it_has() -> None:
    command = command_line(MachineConfig(board=PI), FILES, TCG)
    assert (value(command, "-m"), value(command, "-smp")) == (f"size={2**20}k", "4")
    assert command_line(MachineConfig(board=PI, memory=2**30, cpus=4), FILES, TCG) == command
    with pytest.raises(Error, match=r"raspi3b always has 1 GiB of memory"):
        command_line(MachineConfig(board=PI, memory=2**31), FILES, TCG)
    with pytest.raises(Error, match="raspi3b always has 4 processors"):
        command_line(MachineConfig(board=PI, cpus=2), FILES, TCG)
    with pytest.raises(Error, match="no PCI for a watchdog"):
        command_line(MachineConfig(board=PI, watchdog=True), FILES, TCG)


@pytest.mark.parametrize("name", shipped_boards())
def test_every_shipped_board_that_qemu_has_makes_a_command_line(name: str) -> None:
    board = load_board(name)
    if board.qemu.machine:
        command = command_line(MachineConfig(board=board), FILES, choose_accelerator(board, "tcg"))
        assert value(command, "-machine") == board.qemu.machine


def test_the_user_may_set_the_number_of_processors_of_all_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    board = load_board("x86_64")
    assert cpu_count(MachineConfig(board=board)) == 2
    monkeypatch.setenv("EDGE_OSBUILD_CPUS", "1")
    assert (cpu_count(MachineConfig(board=board)), cpu_count(MachineConfig(board=board, cpus=3))) == (1, 3)
    pi = load_board("rpi3")
    assert cpu_count(MachineConfig(board=pi)) == pi.qemu.cpus
    for text in ("0", "-1", "65", "two", "1.5"):
        monkeypatch.setenv("EDGE_OSBUILD_CPUS", text)
        with pytest.raises(UsageError, match=f"not a number of processors: {text}"):
            cpu_count(MachineConfig(board=board))
