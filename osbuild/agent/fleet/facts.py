"""What a device knows about its hardware and its network. Nothing here changes while the device runs as usual."""

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping

from osbuild.agent.system import System
from osbuild.shared.device_attributes import LONGEST_VALUE, DeviceFact
from osbuild.shared.files import write_file

SERIAL_FILE = "/run/edge-fleet-outcome/serial"  # of root, because only root may read the serial number of a PC
DMI = "/sys/class/dmi/id"  # kernel documentation, ABI/testing/sysfs-class-dmi
TREE = "/proc/device-tree"  # kernel documentation, ABI/testing/sysfs-firmware-ofw
INTERFACES = "/sys/class/net"
INET6 = "/proc/net/if_inet6"  # proc(5)
GET_ADDRESS = 0x8915  # SIOCGIFADDR, netdevice(7)
GLOBAL, UNSTABLE = 0x00, 0x01 | 0x08  # scope; IFA_F_TEMPORARY, IFA_F_DADFAILED (linux/if_addr.h)
# Interfaces of pods, and those that every device has.
INTERNAL = ("lo", "edge0", "cni", "flannel", "veth", "kube-", "cali", "cilium", "lxc", "docker")
# What makers of boards leave in the fields that they do not fill in.
PLACEHOLDERS = frozenset(
    {
        "to be filled by o.e.m.", "default string", "not specified", "not applicable", "none", "unknown", "n/a", "0",
        "system serial number", "system product name", "system manufacturer", "0123456789", "123456789", "invalid",
    }
)  # fmt: skip


def read_facts(system: System, chosen: Iterable[str]) -> dict[str, str]:
    """Return the chosen facts that this device knows. Facts that this version does not know have no effect."""
    return {fact: value for fact in chosen if fact in READERS and (value := READERS[DeviceFact(fact)](system))}


def store_serial(system: System, chosen: Iterable[str]) -> None:
    """Let the unprivileged part know the serial number if it is chosen. For root. Raises `OSError`."""
    serial = read_dmi(system, "product_serial", "board_serial") if DeviceFact.serial in chosen else ""
    if serial:
        write_file(system.path(SERIAL_FILE), serial.encode(), 0o644)
    else:
        system.path(SERIAL_FILE).unlink(missing_ok=True)


def read_serial(system: System) -> str:
    return clean_value(system.text(SERIAL_FILE)) or read_tree(system, "serial-number")


def read_model(system: System) -> str:
    return read_dmi(system, "product_name", "board_name") or read_tree(system, "model")


def read_manufacturer(system: System) -> str:
    # The first entry of `compatible` is "manufacturer,model" (Devicetree Specification, 2.3.1).
    return read_dmi(system, "sys_vendor", "board_vendor") or read_tree(system, "compatible").partition(",")[0]


def read_firmware(system: System) -> str:
    return read_dmi(system, "bios_version")


def read_cpu(system: System) -> str:
    """Return the model of the first processor."""
    if model := read_tree(system, "cpus/cpu@0/compatible"):
        return model
    rows = (line.partition(":") for line in system.text("/proc/cpuinfo").splitlines())
    return next((clean_value(value) for name, _, value in rows if name.strip() == "model name"), "")


def count_cpus(_system: System) -> str:
    return str(os.cpu_count() or "")


def read_addresses(system: System) -> str:
    """Return the addresses at which others may reach this device: one IPv4 address of each interface, then IPv6."""
    names = interface_names(system)
    found = {address for name in names if (address := ipv4_address(name))}
    found |= {address for name, address in ipv6_addresses(system.text(INET6)) if name in names}
    ordered = sorted(map(ipaddress.ip_address, found), key=lambda address: (address.version, int(address)))
    return join_values(str(address) for address in ordered)


def read_mac_addresses(system: System) -> str:
    """Return the hardware addresses of physical interfaces."""
    folder = system.path(INTERFACES)
    names = [name for name in interface_names(system) if (folder / name / "device").exists()]
    return join_values(sorted({system.text(f"{INTERFACES}/{name}/address").strip() for name in names} - {""}))


READERS: Mapping[DeviceFact, Callable[[System], str]] = {
    DeviceFact.serial: read_serial, DeviceFact.model: read_model, DeviceFact.manufacturer: read_manufacturer,
    DeviceFact.firmware: read_firmware, DeviceFact.cpu: read_cpu, DeviceFact.cpus: count_cpus,
    DeviceFact.addresses: read_addresses, DeviceFact.mac_addresses: read_mac_addresses,
}  # fmt: skip


def read_dmi(system: System, *names: str) -> str:
    """Return the first of some fields of the firmware that has a value; empty if none has."""
    return next((value for name in names if (value := clean_value(system.text(f"{DMI}/{name}")))), "")


def read_tree(system: System, name: str) -> str:
    """Return the first text of a property of the device tree; empty if there is none."""
    return clean_value(system.text(f"{TREE}/{name}").partition("\0")[0])


def clean_value(text: str) -> str:
    """Return a text as the value of an attribute; empty if it is what a maker has not filled in."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    value = " ".join(printable.split())[:LONGEST_VALUE].rstrip()
    return "" if value.lower() in PLACEHOLDERS else value


def join_values(values: Iterable[str]) -> str:
    """Return as many values as an attribute may have, with spaces between them."""
    joined = ""
    for value in values:
        longer = f"{joined} {value}".lstrip()
        if len(longer) > LONGEST_VALUE:
            break
        joined = longer
    return joined


def interface_names(system: System) -> list[str]:
    """Return the network interfaces, without those of pods."""
    try:
        names = sorted(path.name for path in system.path(INTERFACES).iterdir())
    except OSError:
        return []
    return [name for name in names if not name.startswith(INTERNAL)]


def ipv4_address(interface: str) -> str | None:
    """Return the first IPv4 address of an interface; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, GET_ADDRESS, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])  # struct ifreq: name, then struct sockaddr_in


def ipv6_addresses(table: str) -> Iterator[tuple[str, str]]:
    """Yield interface and address of each permanent global address in /proc/net/if_inet6."""
    for line in table.splitlines():
        address, _index, _length, scope, flags, name = line.split()
        if int(scope, 16) == GLOBAL and not int(flags, 16) & UNSTABLE:
            yield name, str(ipaddress.ip_address(bytes.fromhex(address)))
