"""What a device reads about its hardware and network, from files as the kernel offers them."""

import ipaddress
from pathlib import Path

import pytest

from osbuild.agent.fleet import facts
from osbuild.agent.fleet.facts import SERIAL_FILE, ipv4_address, ipv6_addresses, join_values, read_facts, store_serial
from osbuild.agent.system import System
from osbuild.shared.device_attributes import DeviceFact

PC = {
    "sys_vendor": "Example Systems\n", "product_name": "Box 9000\n", "bios_version": "1.07\n",
    "product_serial": "Default string\n", "board_serial": "BX-0042\n",
}  # fmt: skip
PI = {
    "serial-number": "10000000a1b2c3d4\0", "model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0", "cpus/cpu@0/compatible": "arm,cortex-a72\0",
}  # fmt: skip
HARDWARE = ("serial", "model", "manufacturer", "firmware", "cpu")


def make_system(root: Path, folder: str, files: dict[str, str]) -> System:
    system = System(root)
    for name, text in files.items():
        path = system.path(f"{folder}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return system


def test_a_pc_names_what_its_firmware_says(tmp_path: Path) -> None:
    system = make_system(tmp_path, facts.DMI, PC)
    make_system(tmp_path, "/proc", {"cpuinfo": "processor\t: 0\nmodel name\t: Example(R)  CPU @ 2.00GHz\n"})
    assert "serial" not in read_facts(system, HARDWARE), "only root may read it"
    store_serial(system, HARDWARE)
    assert system.path(SERIAL_FILE).stat().st_mode & 0o777 == 0o644
    assert read_facts(system, HARDWARE) == {
        "serial": "BX-0042", "model": "Box 9000", "manufacturer": "Example Systems", "firmware": "1.07",
        "cpu": "Example(R) CPU @ 2.00GHz",
    }  # fmt: skip


def test_a_board_names_what_its_device_tree_says(tmp_path: Path) -> None:
    system = make_system(tmp_path, facts.TREE, PI)
    store_serial(system, HARDWARE)
    assert read_facts(system, HARDWARE) == {
        "serial": "10000000a1b2c3d4", "model": "Raspberry Pi 4 Model B Rev 1.4", "manufacturer": "raspberrypi",
        "cpu": "arm,cortex-a72",
    }  # fmt: skip


def test_only_what_the_profile_chooses_is_read(tmp_path: Path) -> None:
    system = make_system(tmp_path, facts.DMI, PC)
    store_serial(system, ["serial"])
    assert read_facts(system, ["model", "a-fact-of-a-later-version"]) == {"model": "Box 9000"}
    store_serial(system, ["model"])
    assert not system.path(SERIAL_FILE).exists() and read_facts(system, ["serial"]) == {}


@pytest.mark.parametrize("text", ["", "\n", "To Be Filled By O.E.M.\n", "Not Specified", "0", "\0\0"])
def test_what_a_maker_has_not_filled_in_is_missing(tmp_path: Path, text: str) -> None:
    assert read_facts(make_system(tmp_path, facts.DMI, {"product_name": text}), ["model"]) == {}


def test_a_value_is_one_line_of_at_most_128_characters(tmp_path: Path) -> None:
    system = make_system(tmp_path, facts.DMI, {"product_name": " a\tb\n\x7f c" + "x" * 200})
    assert read_facts(system, ["model"])["model"] == "a b c" + "x" * 123
    addresses = [f"192.0.2.{number}" for number in range(100, 120)]
    assert join_values(addresses) == " ".join(addresses[:10])


def test_every_fact_is_known_or_missing_on_this_machine() -> None:
    known = read_facts(System(), tuple(DeviceFact))
    assert known.keys() <= set(DeviceFact) and int(known["cpus"]) > 0
    for address in known.get("addresses", "").split():
        assert not ipaddress.ip_address(address).is_loopback
    assert read_facts(System(), tuple(DeviceFact)) == known, "the same at each poll"


def test_addresses_are_those_of_own_interfaces(tmp_path: Path) -> None:
    table = [
        "fe800000000000000000000000000001 02 40 20 80     eth7",  # link-local
        "20010db8000000000000000000000007 02 40 00 80     eth7",
        "20010db8000000000000000000000008 02 40 00 81     eth7",  # temporary
        "20010db8000000000000000000000009 03 40 00 80     cni0",
    ]
    system = make_system(tmp_path, "/proc/net", {"if_inet6": "\n".join(table)})
    make_system(tmp_path, f"{facts.INTERFACES}/eth7", {"address": "02:00:00:00:00:07\n", "device/uevent": ""})
    make_system(tmp_path, f"{facts.INTERFACES}/br7", {"address": "02:00:00:00:00:08\n"})
    make_system(tmp_path, f"{facts.INTERFACES}/cni0", {"address": "02:00:00:00:00:09\n"})
    assert dict(ipv6_addresses("\n".join(table))) == {"eth7": "2001:db8::7", "cni0": "2001:db8::9"}
    chosen = ["addresses", "mac_addresses"]
    assert read_facts(system, chosen) == {"addresses": "2001:db8::7", "mac_addresses": "02:00:00:00:00:07"}


def test_the_kernel_says_the_ipv4_address_of_an_interface() -> None:
    assert (ipv4_address("lo"), ipv4_address("no-such-name")) == ("127.0.0.1", None)
