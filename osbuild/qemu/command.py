"""The command line of QEMU (qemu(1))."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.qemu.accel import Accelerator
from osbuild.qemu.config import PLATFORMS, MachineConfig, Network

NETDEV = "net0"
NIC = "nic0"
NETWORK_PORT = "netport"
"""the PCIe root port that the network card is in, or may be plugged into later"""
DISK = "disk0"


@dataclass(frozen=True)
class Drive:
    """One disk: `format` is raw or qcow2; `volatile` means that the host need not write it through to its disk."""

    name: str
    path: Path
    format: str
    readonly: bool = False
    volatile: bool = False


@dataclass(frozen=True)
class Files:
    """What a machine works with: sockets that QEMU connects to, the log, its disks, its firmware."""

    qmp: Path
    console: Path
    log: Path
    drives: tuple[Drive, ...] = ()
    code: Path | None = None
    vars: Path | None = None


def escape(path: Path) -> str:
    """A path inside a comma-separated option."""
    return str(path).replace(",", ",,")


def netdev(network: Network) -> dict[str, Any]:
    """Arguments of QMP `netdev_add`, the same as those of `-netdev` in JSON."""
    rules = [{"str": forward.to_qemu()} for forward in network.forwards]
    return {"type": "user", "id": NETDEV, "restrict": network.restrict, "hostfwd": rules}


def nic(network: Network) -> dict[str, Any]:
    """Arguments of QMP `device_add`, the same as those of `-device` in JSON."""
    return {"driver": "virtio-net-pci", "id": NIC, "netdev": NETDEV, "bus": NETWORK_PORT, "mac": network.mac}


def blockdev(drive: Drive) -> dict[str, Any]:
    """Arguments of `-blockdev` in JSON.

    A volatile disk is written without fsync. A power cut still finds what the guest had flushed: a flush makes
    QEMU hand its own buffers to the host's kernel, which survives the death of QEMU.
    """
    cache = {"no-flush": drive.volatile}
    file = {
        "driver": "file",
        "filename": str(drive.path),
        "discard": "unmap",
        "read-only": drive.readonly,
        "cache": cache,
    }
    return {
        "driver": drive.format,
        "node-name": drive.name,
        "discard": "unmap",
        "read-only": drive.readonly,
        "cache": cache,
        "file": file,
    }


def command_line(config: MachineConfig, files: Files, accelerator: Accelerator) -> list[str]:
    """The command that starts `config`, paused, connecting to the sockets in `files`."""
    platform = PLATFORMS[config.architecture]
    command = [f"qemu-system-{config.architecture.to_qemu()}", "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-S", "-machine", platform.machine, *accelerator.arguments]
    command += ["-cpu", accelerator.cpu, "-smp", str(config.cpus), "-m", f"size={config.memory // 1024}k"]

    command += ["-chardev", f"socket,id=qmp,path={escape(files.qmp)}", "-mon", "chardev=qmp,mode=control"]
    console = f"socket,id=console,path={escape(files.console)},logfile={escape(files.log)},logappend=on"
    command += ["-chardev", console, "-serial", "chardev:console"]

    if files.code and files.vars:
        for unit, path, readonly in ((0, files.code, "on"), (1, files.vars, "off")):
            option = f"if=pflash,unit={unit},format=raw,readonly={readonly},file={escape(path)}"
            # the variable store is never fsynced: what the firmware writes still outlives QEMU
            command += ["-drive", option if readonly == "on" else option + ",cache=unsafe"]
    if config.direct:
        command += ["-kernel", str(config.direct.kernel), "-append", config.direct.arguments]
        if config.direct.initrd:
            command += ["-initrd", str(config.direct.initrd)]

    command += ["-device", "virtio-rng-pci"]
    command += ["-device", f"pcie-root-port,id={NETWORK_PORT},chassis=1,slot=1"]
    for number, drive in enumerate(files.drives):
        command += ["-blockdev", json.dumps(blockdev(drive))]
        boot = ",bootindex=1" if number == 0 and drive.name == DISK else ""
        command += ["-device", f"virtio-blk-pci,drive={drive.name},id=dev-{drive.name},serial={drive.name}{boot}"]
    if config.network:
        command += ["-netdev", json.dumps(netdev(config.network)), "-device", json.dumps(nic(config.network))]
    if config.watchdog:
        command += ["-device", "i6300esb", "-action", "watchdog=reset"]
    return command + list(config.extra)
