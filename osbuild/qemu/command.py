"""The command line of QEMU (qemu(1))."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osbuild.board import QemuBoard
from osbuild.errors import Error
from osbuild.qemu.accel import Accelerator
from osbuild.qemu.config import CPUS, MEMORY, MachineConfig, Network
from osbuild.qemu.files import DISK, Drive, Files

NETDEV = "net0"
NIC = "nic0"
NETWORK_PORT = "netport"
"""the PCIe root port that the network card is in, or may be plugged into later"""
GIB = 2**30


def escape(path: Path) -> str:
    """A path inside a comma-separated option."""
    return str(path).replace(",", ",,")


def netdev(network: Network) -> dict[str, Any]:
    """Arguments of QMP `netdev_add`, the same as those of `-netdev` in JSON."""
    rules = [{"str": forward.to_qemu()} for forward in network.forwards]
    return {"type": "user", "id": NETDEV, "restrict": network.restrict, "hostfwd": rules}


def nic(network: Network, board: QemuBoard) -> dict[str, Any]:
    """Arguments of QMP `device_add`, the same as those of `-device` in JSON."""
    if board.network == "usb":
        return {"driver": "usb-net", "id": NIC, "netdev": NETDEV, "mac": network.mac}
    place = {"bus": NETWORK_PORT, "romfile": ""}  # no ROM to boot from the network: the firmware has its own driver
    return {"driver": "virtio-net-pci", "id": NIC, "netdev": NETDEV, "mac": network.mac, **place}


def file_node(name: str) -> str:
    """The name of the block node that is the file of the disk `name`."""
    return f"{name}-file"


def blockdev(drive: Drive) -> dict[str, Any]:
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
    return node if drive.log is None else logged(node, drive.log)


def logged(node: dict[str, Any], log: Path) -> dict[str, Any]:
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


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Options of `-blockdev` in the form of `-drive`: `file.driver=qcow2`."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).replace(",", ",,")
            yield f"{prefix}{name}={text}"


def card(drive: Drive) -> str:
    """Value of `-drive` for the board's own slot for an SD card, which `-device` cannot reach."""
    if drive.log:
        return ",".join(["if=sd", *flat(blockdev(drive))])
    cache = "unsafe" if drive.volatile else "writeback"
    return f"if=sd,format={drive.format},node-name={drive.name},cache={cache},discard=unmap,file={escape(drive.path)}"


def memory(config: MachineConfig) -> int:
    """The machine's memory in bytes. Raises `Error` where the board has another amount than is asked for."""
    fixed = config.board.qemu.memory
    if fixed and config.memory not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed / GIB:g} GiB of memory",
            where=f"board {config.board.name}",
            hint="don't ask for another amount, or boot an image for another board",
        )
    return fixed or config.memory or MEMORY


def cpus(config: MachineConfig) -> int:
    """The machine's processors. Raises `Error` where the board has another number than is asked for."""
    fixed = config.board.qemu.cpus
    if fixed and config.cpus not in (None, fixed):
        raise Error(
            f"{config.board.qemu.machine} always has {fixed} processors",
            where=f"board {config.board.name}",
            hint="don't ask for another number",
        )
    return fixed or config.cpus or CPUS


def command_line(config: MachineConfig, files: Files, accelerator: Accelerator) -> list[str]:
    """The command that starts `config`, paused, connecting to the sockets in `files`."""
    board = config.board.qemu
    command = [f"qemu-system-{config.architecture.to_qemu()}", "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-S", "-machine", board.machine, *accelerator.arguments]
    command += ["-smp", str(cpus(config)), "-m", f"size={memory(config) // 1024}k"]

    command += ["-chardev", f"socket,id=qmp,path={escape(files.qmp)}", "-mon", "chardev=qmp,mode=control"]
    console = f"socket,id=console,path={escape(files.console)},logfile={escape(files.log)},logappend=on"
    command += ["-chardev", console, *["-serial", "null"] * board.serial, "-serial", "chardev:console"]

    command += firmware(config, files)
    command += devices(config, files)
    return command + list(config.extra)


def firmware(config: MachineConfig, files: Files) -> list[str]:
    """What the processor executes first."""
    words: list[str] = []
    if files.code and files.vars:
        for unit, path, readonly in ((0, files.code, "on"), (1, files.vars, "off")):
            option = f"if=pflash,unit={unit},format=raw,readonly={readonly},file={escape(path)}"
            # the variable store is never fsynced: what the firmware writes still outlives QEMU
            words += ["-drive", option if readonly == "on" else option + ",cache=unsafe"]
    if files.uboot:
        words += ["-kernel", str(files.uboot)]
    if files.device_tree:
        words += ["-dtb", str(files.device_tree)]
    if config.direct:
        words += ["-kernel", str(config.direct.kernel), "-append", config.direct.arguments]
        if config.direct.initrd:
            words += ["-initrd", str(config.direct.initrd)]
    return words


def devices(config: MachineConfig, files: Files) -> list[str]:
    """Disks, network card and watchdog. Without PCI there are only the SD card's slot and USB."""
    board, words = config.board.qemu, []
    pci = board.disk == "virtio"
    if pci:
        words += ["-device", "virtio-rng-pci", "-device", f"pcie-root-port,id={NETWORK_PORT},chassis=1,slot=1"]
    for number, drive in enumerate(files.drives):
        if not pci and number == 0 and not drive.readonly:
            words += ["-drive", card(drive)]
            continue
        words += ["-blockdev", json.dumps(blockdev(drive))]
        if drive.bus and not pci:
            raise Error(f"{board.machine} has no PCI for {drive.bus} disks", where=f"board {config.board.name}")
        kind = drive.bus or ("virtio-blk-pci" if pci else "usb-storage")
        boot = ",bootindex=1" if pci and number == 0 and drive.name == DISK else ""
        # QEMU merges requests up to as many pieces as the host writes at once (IOV_MAX), and the log adds one: EIO.
        single = ",request-merging=off" if pci and drive.log else ""
        words += ["-device", f"{kind},drive={drive.name},id=dev-{drive.name},serial={drive.name}{boot}{single}"]
    if config.network:
        words += ["-netdev", json.dumps(netdev(config.network)), "-device", json.dumps(nic(config.network, board))]
    if config.watchdog:
        if not pci:
            raise Error(f"{board.machine} has no PCI for a watchdog", where=f"board {config.board.name}")
        words += ["-device", "i6300esb", "-action", "watchdog=reset"]
    return words
