"""The command line of QEMU (qemu(1))."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osbuild.config.board import QemuBoard
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import CPUS, MEMORY, MachineConfig, MachineNetwork
from osbuild.qemu.files import DISK, Drive, MachineFiles
from osbuild.shared.errors import Error

NETDEV = "net0"
NIC = "nic0"
NETWORK_PORT = "netport"
"""the PCIe root port that the network card is in, or may be plugged into later"""
GIB = 2**30


def escape_path(path: Path) -> str:
    """A path inside a comma-separated option."""
    return str(path).replace(",", ",,")


def netdev_arguments(network: MachineNetwork) -> dict[str, Any]:
    """Arguments of QMP `netdev_add`, the same as those of `-netdev` in JSON."""
    rules = [{"str": forward.to_qemu()} for forward in network.forwards]
    return {"type": "user", "id": NETDEV, "restrict": network.restrict, "hostfwd": rules}


def nic_arguments(network: MachineNetwork, board: QemuBoard) -> dict[str, Any]:
    """Arguments of QMP `device_add`, the same as those of `-device` in JSON."""
    if board.network == "usb":
        return {"driver": "usb-net", "id": NIC, "netdev": NETDEV, "mac": network.mac}
    place = {"bus": NETWORK_PORT, "romfile": ""}  # no ROM to boot from the network: the firmware has its own driver
    return {"driver": "virtio-net-pci", "id": NIC, "netdev": NETDEV, "mac": network.mac, **place}


def file_node(name: str) -> str:
    """The name of the block node that is the file of the disk `name`."""
    return f"{name}-file"


def blockdev_arguments(drive: Drive) -> dict[str, Any]:
    """Arguments of `-blockdev` in JSON.

    A volatile disk is written without fsync. A power cut still finds what the guest had flushed: a flush makes
    QEMU hand its own buffers to the host's kernel, which survives the death of QEMU.
    """
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
    """A node in front of `node`, under its name, that enters every write in `log` (QEMU's driver `blklogwrites`).

    A node that ignores flushes would log none, so only those below may. The log counts an entry at once, not only at
    the next flush: then it is whole when QEMU is killed.
    """
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
    """Options of `-blockdev` in the form of `-drive`: `file.driver=qcow2`."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flatten_options(value, f"{prefix}{name}.")
        else:
            text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).replace(",", ",,")
            yield f"{prefix}{name}={text}"


def sd_card_argument(drive: Drive) -> str:
    """Value of `-drive` for the board's own slot for an SD card, which `-device` cannot reach."""
    if drive.log:
        return ",".join(["if=sd", *flatten_options(blockdev_arguments(drive))])
    cache = "unsafe" if drive.volatile else "writeback"
    return (
        f"if=sd,format={drive.format},node-name={drive.name},cache={cache},discard=unmap,file={escape_path(drive.path)}"
    )


def memory_size(config: MachineConfig) -> int:
    """The machine's memory in bytes. Raises `Error` where the board has another amount than is asked for."""
    fixed = config.board.qemu.memory
    if fixed and config.memory not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed / GIB:g} GiB of memory",
            where=f"board {config.board.name}",
            hint="don't ask for another amount, or boot an image for another board",
        )
    return fixed or config.memory or MEMORY


def cpu_count(config: MachineConfig) -> int:
    """The machine's processors. Raises `Error` where the board has another number than is asked for."""
    fixed = config.board.qemu.cpus
    if fixed and config.cpus not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed} processors",
            where=f"board {config.board.name}",
            hint="don't ask for another number",
        )
    return fixed or config.cpus or CPUS


def command_line(config: MachineConfig, files: MachineFiles, accelerator: Accelerator) -> list[str]:
    """The command that starts `config`, paused, connecting to the sockets in `files`."""
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
    """What the processor executes first."""
    arguments: list[str] = []
    if files.code and files.vars:
        for unit, path, readonly in ((0, files.code, "on"), (1, files.vars, "off")):
            option = f"if=pflash,unit={unit},format=raw,readonly={readonly},file={escape_path(path)}"
            # the variable store is never fsynced: what the firmware writes still outlives QEMU
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
    """Disks, network card and watchdog. Without PCI there are only the SD card's slot and USB."""
    board, words = config.board.qemu, []
    pci = board.disk == "virtio"
    if pci:
        words += ["-device", "virtio-rng-pci", "-device", f"pcie-root-port,id={NETWORK_PORT},chassis=1,slot=1"]
    for number, drive in enumerate(files.drives):
        if not pci and number == 0 and not drive.readonly:
            words += ["-drive", sd_card_argument(drive)]
            continue
        words += ["-blockdev", json.dumps(blockdev_arguments(drive))]
        if drive.bus and not pci:
            raise Error(f"{board.machine} has no PCI for {drive.bus} disks", where=f"board {config.board.name}")
        kind = drive.bus or ("virtio-blk-pci" if pci else "usb-storage")
        boot = ",bootindex=1" if pci and number == 0 and drive.name == DISK else ""
        # QEMU merges requests up to as many pieces as the host writes at once (IOV_MAX), and the log adds one: EIO.
        single = ",request-merging=off" if pci and drive.log else ""
        words += ["-device", f"{kind},drive={drive.name},id=dev-{drive.name},serial={drive.name}{boot}{single}"]
    if config.network:
        words += [
            "-netdev",
            json.dumps(netdev_arguments(config.network)),
            "-device",
            json.dumps(nic_arguments(config.network, board)),
        ]
    if config.watchdog:
        if not pci:
            raise Error(f"{board.machine} has no PCI for a watchdog", where=f"board {config.board.name}")
        words += ["-device", "i6300esb", "-action", "watchdog=reset"]
    return words
