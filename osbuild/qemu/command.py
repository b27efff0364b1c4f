"""The command line of QEMU (qemu(1))."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osbuild.config.board import QemuBoard
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import CPUS, MEMORY, MOST_CPUS, MachineConfig, MachineNetwork
from osbuild.qemu.files import DISK, Drive, MachineFiles
from osbuild.shared.errors import Error, UsageError

NETDEV = "net0"
NIC = "nic0"
NETWORK_PORT = "netport"
"""the PCIe root port of the network card, which may be plugged in later"""
GIB = 2**30


def escape_path(path: Path) -> str:
    """Escape a path for a comma-separated option."""
    return str(path).replace(",", ",,")


def netdev_arguments(network: MachineNetwork) -> dict[str, Any]:
    """Return the arguments of QMP `netdev_add` and of `-netdev` in JSON."""
    rules = [{"str": forward.to_qemu()} for forward in network.forwards]
    return {"type": "user", "id": NETDEV, "restrict": network.restrict, "hostfwd": rules}


def nic_arguments(network: MachineNetwork, board: QemuBoard) -> dict[str, Any]:
    """Return the arguments of QMP `device_add` and of `-device` in JSON."""
    if board.network == "usb":
        return {"driver": "usb-net", "id": NIC, "netdev": NETDEV, "mac": network.mac}
    slot = {"bus": NETWORK_PORT, "romfile": ""}  # no boot ROM, because the firmware has its own driver
    return {"driver": "virtio-net-pci", "id": NIC, "netdev": NETDEV, "mac": network.mac, **slot}


def file_node(name: str) -> str:
    """Return the name of the block node of the file of the disk `name`."""
    return f"{name}-file"


def blockdev_arguments(drive: Drive) -> dict[str, Any]:
    """Return the arguments of `-blockdev` in JSON."""
    # A volatile disk is written without fsync. After a simulated power cut the disk still contains the data that
    # the guest had flushed, because a flush passes QEMU's buffers to the host's kernel, which survives QEMU.
    cache = {"no-flush": drive.volatile}
    file = {
        "driver": "file",
        "node-name": file_node(drive.name),
        "filename": str(drive.path),
        "discard": "unmap",
        "read-only": drive.readonly,
        "cache": cache,
    }
    node = {
        "driver": drive.format,
        "node-name": drive.name,
        "discard": "unmap",
        "read-only": drive.readonly,
        "cache": cache,
        "file": file,
    }
    return node if drive.log is None else logged_node(node, drive.log)


def logged_node(node: dict[str, Any], log: Path) -> dict[str, Any]:
    """Return a node that takes the name of `node` and logs every write to `log` (QEMU's driver `blklogwrites`)."""
    # Only the nodes below may ignore flushes, else flushes would not be logged. The superblock is updated after each
    # entry, so that the log is complete when QEMU is killed.
    return {
        "driver": "blklogwrites",
        "node-name": node["node-name"],
        "discard": "unmap",
        "cache": {"no-flush": False},
        "file": {**node, "node-name": f"{node['node-name']}-format"},
        "log": {"driver": "file", "filename": str(log), "cache": {"no-flush": True}},
        "log-append": True,
        "log-super-update-interval": 1,
    }


def flatten_options(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield options of `-blockdev` in the syntax of `-drive`: `file.driver=qcow2`."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flatten_options(value, f"{prefix}{name}.")
        else:
            text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).replace(",", ",,")
            yield f"{prefix}{name}={text}"


def sd_card_argument(drive: Drive) -> str:
    """Return the value of `-drive` for the board's SD card slot, which `-device` does not support."""
    if drive.log:
        return ",".join(["if=sd", *flatten_options(blockdev_arguments(drive))])
    cache = "unsafe" if drive.volatile else "writeback"
    return (
        f"if=sd,format={drive.format},node-name={drive.name},cache={cache},discard=unmap,file={escape_path(drive.path)}"
    )


def memory_size(config: MachineConfig) -> int:
    """Return the machine's memory in bytes. Raises `Error` if the board has a fixed, different amount."""
    fixed = config.board.qemu.memory
    if fixed and config.memory not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed / GIB:g} GiB of memory",
            where=f"board {config.board.name}",
            hint="omit the amount, or boot an image for another board",
        )
    return fixed or config.memory or MEMORY


def cpu_count(config: MachineConfig) -> int:
    """Return the number of processors. Raises `Error` if the board has a fixed, different number."""
    fixed = config.board.qemu.cpus
    if fixed and config.cpus not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed} processors",
            where=f"board {config.board.name}",
            hint="omit the number",
        )
    return fixed or config.cpus or default_cpu_count()


def default_cpu_count() -> int:
    """Return the processors of a guest whose user names no number. Raises `UsageError` for a bad $EDGE_OSBUILD_CPUS."""
    text = os.environ.get("EDGE_OSBUILD_CPUS", "")
    if not text:
        return CPUS
    if not text.isdecimal() or not 0 < int(text) <= MOST_CPUS:
        hint = f"set a number from 1 to {MOST_CPUS}, or unset it"
        raise UsageError(f"this is not a number of processors: {text}", where="EDGE_OSBUILD_CPUS", hint=hint)
    return int(text)


def command_line(config: MachineConfig, files: MachineFiles, accelerator: Accelerator) -> list[str]:
    """Return the command that starts `config` paused and connects to the sockets in `files`. Raises `Error`."""
    board = config.board.qemu
    command = [f"qemu-system-{config.architecture.to_qemu()}", "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-S", "-machine", board.machine, *accelerator.arguments]
    command += ["-smp", str(cpu_count(config)), "-m", f"size={memory_size(config) // 1024}k"]

    command += ["-chardev", f"socket,id=qmp,path={escape_path(files.qmp)}", "-mon", "chardev=qmp,mode=control"]
    console = f"socket,id=console,path={escape_path(files.console)},logfile={escape_path(files.log)},logappend=on"
    command += ["-chardev", console, *["-serial", "null"] * board.serial, "-serial", "chardev:console"]

    command += firmware_arguments(config, files)
    command += device_arguments(config, files)
    return command + list(config.extra)


def firmware_arguments(config: MachineConfig, files: MachineFiles) -> list[str]:
    """Return the arguments for the code that the processor executes first."""
    arguments: list[str] = []
    if files.code and files.vars:
        for unit, path, readonly in ((0, files.code, "on"), (1, files.vars, "off")):
            option = f"if=pflash,unit={unit},format=raw,readonly={readonly},file={escape_path(path)}"
            # the variable store needs no fsync, because the firmware's writes survive the end of QEMU anyway
            arguments += ["-drive", option if readonly == "on" else option + ",cache=unsafe"]
    if files.uboot:
        arguments += ["-kernel", str(files.uboot)]
    if files.device_tree:
        arguments += ["-dtb", str(files.device_tree)]
    if config.direct:
        arguments += ["-kernel", str(config.direct.kernel), "-append", config.direct.arguments]
        if config.direct.initrd:
            arguments += ["-initrd", str(config.direct.initrd)]
    return arguments


def device_arguments(config: MachineConfig, files: MachineFiles) -> list[str]:
    """Return the arguments for disks, network card and watchdog. Boards without PCI have only an SD card slot and USB.

    Raises `Error` for a device that needs PCI.
    """
    board, arguments = config.board.qemu, []
    pci = board.disk == "virtio"
    if pci:
        arguments += ["-device", "virtio-rng-pci", "-device", f"pcie-root-port,id={NETWORK_PORT},chassis=1,slot=1"]
    for number, drive in enumerate(files.drives):
        if not pci and number == 0 and not drive.readonly:
            arguments += ["-drive", sd_card_argument(drive)]
            continue
        arguments += ["-blockdev", json.dumps(blockdev_arguments(drive))]
        if drive.bus and not pci:
            raise Error(f"{board.machine} has no PCI for {drive.bus} disks", where=f"board {config.board.name}")
        kind = drive.bus or ("virtio-blk-pci" if pci else "usb-storage")
        boot = ",bootindex=1" if pci and number == 0 and drive.name == DISK else ""
        # Without this, QEMU merges requests up to IOV_MAX pieces; the log adds one piece, and the write fails with EIO.
        single = ",request-merging=off" if pci and drive.log else ""
        arguments += ["-device", f"{kind},drive={drive.name},id=dev-{drive.name},serial={drive.name}{boot}{single}"]
    if config.network:
        arguments += [
            "-netdev",
            json.dumps(netdev_arguments(config.network)),
            "-device",
            json.dumps(nic_arguments(config.network, board)),
        ]
    if config.watchdog:
        if not pci:
            raise Error(f"{board.machine} has no PCI for a watchdog", where=f"board {config.board.name}")
        arguments += ["-device", "i6300esb", "-action", "watchdog=reset"]
    return arguments
