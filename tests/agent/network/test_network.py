"""network-config as other tools write it, rendered by the device's own programs: agent, netplan, systemd-networkd."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.agent.commands.network import unmatched
from osbuild.agent.errors import Problem
from osbuild.agent.network import document, version1
from osbuild.agent.network.netplan import as_version_2, physical_interfaces
from osbuild.agent.seed import etc_changes
from osbuild.agent.system import System
from osbuild.host.run import run_command
from tests.support import networks
from tests.support.examples import examples
from tests.support.networks import Network, NodePrograms

SEEDS = Path(__file__).parents[2] / "data/network"
UNITS = "systemd/network/"
DHCP = "88-edge-fallback.network"
Configure = Callable[..., Network]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePrograms]:
    with networks.start_programs(tmp_path_factory.getbasetemp()) as programs:
        yield programs


@pytest.fixture
def configure(programs: NodePrograms, tmp_path: Path) -> Configure:
    def configure_network(data: bytes | str, **options: object) -> Network:
        data = data.encode() if isinstance(data, str) else data
        return networks.configure(programs, tmp_path / "node", data, **options)  # type: ignore[arg-type]

    return configure_network


def sections(text: str) -> dict[str, list[str]]:
    """Section -> its lines, of a unit file. Sections of the same name are joined."""
    lines_by_section: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif line:
            lines_by_section.setdefault(name, []).append(line)
    return lines_by_section


# seed -> file -> section -> lines that must be there.
RENDERED: dict[str, dict[str, dict[str, set[str]]]] = {
    "default-route": {
        "10-netplan-enp1s0.network": {
            "Network": {"Address=192.0.2.10/24"},
            "Route": {"Destination=0.0.0.0/0", "Gateway=192.0.2.1"},
        }
    },
    "v2-wrapped": {
        "10-netplan-lan.link": {"Match": {"PermanentMACAddress=52:54:00:ED:9E:01"}, "Link": {"Name=lan0"}},
        "10-netplan-lan.network": {
            "Network": {
                "Address=192.0.2.10/24", "Address=2001:db8::10/64", "Gateway=192.0.2.1", "Gateway=2001:db8::1",
                "DNS=192.0.2.53", "Domains=site.example",
            },
            "Route": {"Destination=198.51.100.0/24", "Gateway=192.0.2.254", "Metric=50"},
        },
    },
    "changedmac": {
        "10-netplan-enp1s0.network": {"Match": {"PermanentMACAddress=52:54:00:00:00:99"}, "Network": {"DHCP=ipv4"}}
    },
    "v1-vlanbond": {
        "10-netplan-bond0.netdev": {"NetDev": {"Kind=bond"}, "Bond": {"Mode=active-backup", "MIIMonitorSec=100ms"}},
        "10-netplan-bond0.network": {"Network": {"DHCP=ipv4", "VLAN=bond0.20"}},
        "10-netplan-enp1s0.network": {"Network": {"Bond=bond0"}},
        "10-netplan-enp2s0.network": {"Network": {"Bond=bond0"}},
        "10-netplan-bond0.20.netdev": {"NetDev": {"Kind=vlan"}, "VLAN": {"Id=20"}},
        "10-netplan-bond0.20.network": {"Network": {"Address=192.0.2.10/24"}},
    },
    "v2-vlanbond": {
        "10-netplan-bond0.netdev": {"NetDev": {"Kind=bond"}, "Bond": {"Mode=active-backup", "MIIMonitorSec=100ms"}},
        "10-netplan-vlan20.netdev": {"NetDev": {"Kind=vlan"}, "VLAN": {"Id=20"}},
        "10-netplan-vlan20.network": {"Network": {"Address=192.0.2.10/24", "Bridge=br0"}},
        "10-netplan-br0.netdev": {"NetDev": {"Kind=bridge"}},
        "10-netplan-br0.network": {"Network": {"DHCP=ipv4"}},
    },
    "v2-wifi": {
        "10-netplan-enp1s0.network": {"Network": {"DHCP=ipv4"}},
        "10-netplan-wlan0.network": {"Network": {"DHCP=ipv4"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_a_seed_of_another_tool_is_rendered_completely(configure: Configure, name: str) -> None:
    network = configure((SEEDS / name / "network-config").read_bytes(), networkd=True)
    for file, expected in RENDERED[name].items():
        lines_found = sections(network.files[UNITS + file])
        for section, lines in expected.items():
            assert lines <= set(lines_found[section]), (file, section)
    assert network.complaints == []
    # This sandbox has no interface: the agent reports that and configures DHCP, so that the node stays reachable.
    assert "none of its interfaces exists" in network.messages
    assert "DHCP=yes" in network.files[UNITS + DHCP]


def test_wifi_starts_its_supplicant_and_its_password_is_for_root_only(configure: Configure) -> None:
    network = configure((SEEDS / "v2-wifi/network-config").read_bytes())
    assert 'psk="not-a-secret"' in network.files["netplan/wpa-wlan0.conf"]
    assert (network.folder / "run/netplan/wpa-wlan0.conf").stat().st_mode & 0o777 == 0o600
    assert "wpa_supplicant -c /run/netplan/wpa-wlan0.conf" in network.files["systemd/system/netplan-wpa-wlan0.service"]
    assert "not-a-secret" not in network.messages


def test_without_wpa_supplicant_wifi_is_refused_and_ethernet_works(configure: Configure) -> None:
    network = configure((SEEDS / "v2-wifi/network-config").read_bytes(), wifi=False)
    assert "network-config, line 4, column 1: needs /usr/sbin/wpa_supplicant" in network.messages
    assert "packages+: [wpasupplicant]" in network.messages
    assert "DHCP=ipv4" in network.files[UNITS + "10-netplan-enp1s0.network"]
    assert not any("wlan0" in name for name in network.files)


def test_settings_that_need_a_missing_program_are_reported_and_the_rest_works(configure: Configure) -> None:
    text = """version: 2
wifis: {wlan0: {regulatory-domain: GB, dhcp4: true, access-points: {site: {password: not-a-secret}}}}
ethernets:
  e0: {dhcp4: true, auth: {key-management: 802.1x, method: ttls, identity: a, password: b}}
  e1: {dhcp6: true, virtual-function-count: 2}
"""
    network = configure(text)  # these sandboxes have wpa_supplicant, but neither iw nor netplan(8)
    assert "needs /usr/sbin/iw, which this image does not have" in network.messages
    assert "packages+: [iw]" in network.messages
    assert "needs /usr/sbin/netplan, which" in network.messages
    assert 'psk="not-a-secret"' in network.files["netplan/wpa-wlan0.conf"]
    assert "DHCP=ipv6" in network.files[UNITS + "10-netplan-e1.network"]
    assert not [name for name in network.files if "regdom" in name or "sriov" in name]


def test_ethernet_with_802_1x_is_configured_without_wpa_supplicant(configure: Configure) -> None:
    auth = "{key-management: 802.1x, method: ttls, identity: a, password: b}"
    text = f"version: 2\nethernets: {{e0: {{dhcp4: true, auth: {auth}}}}}\n"
    network = configure(text, wifi=False)
    assert "needs /usr/sbin/wpa_supplicant" in network.messages
    assert "DHCP=ipv4" in network.files[UNITS + "10-netplan-e0.network"]
    assert not [name for name in network.files if "wpa" in name]


BROKEN = [
    ("version: 2\nethernets:\n\te0: {}\n", "line 3, column 1: is not valid YAML"),
    ("version: 2\nethernets: {e0: {addresses: [300.1.1.1/24]}}\n", "line 2, column 29: malformed address"),
    ("version: 2\nethernets:\n  e0:\n    adresses: [192.0.2.1/24]\n", "line 4, column 5: unknown key 'adresses'"),
    ("version: 2\nbonds: {b0: {interfaces: [e9]}}\n", "line 2, column 27: b0: interface 'e9' is not defined"),
    ("version: 3\n", "line 1, column 10: has neither version 1 nor version 2"),
    ("[1, 2]\n", "line 1, column 1: is not a mapping"),
    ("version: 2\nrenderer: NetworkManager\nethernets: {e0: {}}\n", "needs NetworkManager"),
    ("version: 2\nethernets: {e0: {openvswitch: {}}}\n", "ovs-vsctl"),
    ("version: 2\nmodems: {cdc: {apn: x}}\n", "GSM/CDMA"),
    ("version: 2\nwifis: {w0: {access-points: {net: {password: hush}}}}\n", "between 8 and 63"),
    ("version: 2\ntunnels: {t: {mode: gre, local: 192.0.2.1, remote: 192.0.2.2, key: hush}}\n", "invalid tunnel key"),
    (b"version: 2\n\xff\xfe\n", "byte 11: is not UTF-8 text"),
    ("a: &a [x]\n" + "b: [" + "*a, " * 30_000 + "]\n", "more than 20000 values"),
    ("[" * 3000, "more than 40 levels"),
    ("version: 1\nconfig:\n  - {type: token-ring, name: t0}\n", "line 3, column 5: an entry of the type `token-ring`"),
    (
        "version: 1\nconfig:\n  - {type: physical, name: e0, subnets: {type: dhcp}}\n",
        "line 3, column 41: is not a list",
    ),
    ('version: 2\nethernets: {"a\\ud800": {dhcp4: true}}\n', "line 2, column 13: the character U+D800"),
    ('version: 2\nethernets: {"a\\0b": {dhcp4: true}}\n', "line 2, column 13: the character U+0000"),
    (
        'version: 2\nethernets: {e0: {nameservers: {search: ["a\\n[Link]\\nMTUBytes=1"]}}}\n',
        "line 2, column 41: the character U+000A",
    ),
    ('version: 2\nethernets: {e0: {dhcp4: "\\U00110000"}}\n', "an escape that is not a character"),
    ("version: 1\nconfig: [{type: " + "x" * 300 + "}]\n", "an entry of the type `" + "x" * 59 + "…` is not"),
    (
        "version: 1\nconfig: [{type: physical, name: a, subnets: [{type: static, address: 1.2.3.4, netmask: [1]}]}]\n",
        "`1.2.3.4` is not an address with netmask",
    ),
    ("version: 2\nethernets: {[a]: {dhcp4: true}}\n", "line 2, column 13: a list or mapping cannot be a name"),
    (b"version: 2\nethernets: {}\n# \x00\n", "line 3, column 3: contains a character that YAML does not allow"),
    ("a: &a {b: *a}\n", "line 1, column 11: is not valid YAML: an alias that contains itself"),
    (
        "a: &a {a: 1}\n" + "".join(f"{y}: &{y} {{<<: [{f'*{x}, ' * 9}]}}\n" for x, y in ("ab", "bc", "cd", "de", "ef")),
        "more than 20000 values",
    ),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_an_invalid_network_config_is_reported_and_replaced_by_dhcp(
    configure: Configure, data: bytes | str, message: str
) -> None:
    network = configure(data)
    assert message in network.messages
    assert "DHCP on every Ethernet interface instead" in network.messages
    assert [name for name in network.files if name.startswith(UNITS)] == [UNITS + DHCP]
    assert not (network.folder / "stored").exists()
    units = network.folder / "run/systemd/network"  # systemd-networkd reads them without being root
    assert (units.stat().st_mode & 0o777, (units / DHCP).stat().st_mode & 0o777) == (0o755, 0o644)
    assert "hush" not in network.messages
    assert json.loads((network.folder / "run/edge-osbuild/network.json").read_text())["problems"]


# Entries without effect. The rest of the file is used.
WITHOUT_EFFECT = [
    ("version: 2\nethernets: {e0: {dhcp4: true}, e1: {addresses: [192.0.2.1/24]}}\nbonds: {b0: {interfaces: [e1]}}\n",
     "line 2, column 37: `addresses` of `e1` have no effect: it is a member of a bond"),
    ("version: 2\nethernets: {e0: {dhcp6: true}, e0: {dhcp4: true}}\n", "line 2, column 32: `e0` appears twice"),
    ("network: {version: 2, ethernets: {e0: {dhcp4: true}}}\nwifis: {}\n",
     "line 2, column 1: `wifis` beside `network`"),
    ("version: 1\nconfig: [{type: physical, name: e0, speed: 10, subnets: [{type: dhcp}]}]\n",
     "line 2, column 37: unknown key `speed`"),
    ("version: 1\nconfig: [{type: infiniband, name: ib0}, {type: physical, name: e0, subnets: [{type: dhcp}]}]\n",
     "line 2, column 10: an entry of the type `infiniband`"),
    ("version: 1\nconfig:\n"
     "- {type: bond, name: e0, bond_interfaces: [], subnets: [{type: dhcp}], params: {bond-x: 1}}\n",
     "line 3, column 81: unknown parameter `bond-x`"),
    ("version: 1\nconfig:\n- {type: physical, name: e0, subnets: [{type: dhcp}]}\n"
     "- {type: route, destination: 10.0.0.0/8, gateway: 192.0.2.1}\n",
     "line 4, column 3: a route has no effect: no interface has the network of 192.0.2.1"),
    ("version: 1\nconfig: [{type: vlan, name: v}, {type: physical, name: e0, subnets: [{type: dhcp}]}]\n",
     "line 2, column 10: a vlan needs `vlan_link`"),
    ("version: 1\nconfig: [{type: physical, name: e0, subnets: [{type: dhcp, ipv4: true}, {type: carrier-pigeon}]}]\n",
     "line 2, column 73: a subnet of the type `carrier-pigeon` has no effect"),
    ("version: 1\nconfig: [{type: physical, name: e0}, {type: physical, name: e0, subnets: [{type: dhcp}]}]\n",
     "line 2, column 38: `e0` appears twice"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WITHOUT_EFFECT)
def test_entries_without_effect_are_reported_and_the_rest_is_used(
    configure: Configure, data: str, message: str
) -> None:
    network = configure(data)
    assert message in network.messages
    assert "not used" not in network.messages
    assert "DHCP=ipv4" in network.files[UNITS + "10-netplan-e0.network"]
    assert (network.folder / "stored/network-config").read_text() == data


def test_the_last_working_configuration_replaces_an_invalid_one(configure: Configure) -> None:
    before = (SEEDS / "default-route/network-config").read_bytes()
    network = configure(b"version: 2\nethernets: [\n", stored=before)
    assert "is not valid YAML" in network.messages
    assert "the network has its last working configuration" in network.messages
    assert "Address=192.0.2.10/24" in network.files[UNITS + "10-netplan-enp1s0.network"]
    assert (network.folder / "stored/network-config").read_bytes() == before


def test_a_read_only_data_partition_prevents_only_the_stored_copy(configure: Configure) -> None:
    network = configure((SEEDS / "default-route/network-config").read_bytes(), read_only=True)
    assert "network-config could not be stored" in network.messages
    assert "Address=192.0.2.10/24" in network.files[UNITS + "10-netplan-enp1s0.network"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "network: {config: disabled}\n", "version: 2\nethernets: {}\n"])
def test_an_empty_configuration_keeps_the_network_of_the_image(configure: Configure, text: str) -> None:
    network = configure(text)
    assert network.messages == ""
    assert not [name for name in network.files if name.startswith(UNITS)]
    assert not (network.folder / "stored").exists()


def test_a_configuration_that_works_is_stored_for_root_only(configure: Configure) -> None:
    data = (SEEDS / "default-route/network-config").read_bytes()
    network = configure(data)
    stored = network.folder / "stored/network-config"
    assert stored.read_bytes() == data
    assert stored.stat().st_mode & 0o777 == 0o600


def test_a_pattern_matches_physical_interfaces_only_and_is_sorted_last(
    configure: Configure,
) -> None:
    network = configure(
        "version: 2\nethernets:\n  '~ en*': {dhcp4: true}\n  e*: {dhcp6: true}\n  enp1s0: {dhcp4: false}\n",
        networkd=True,
    )
    files = sorted(name.removeprefix(UNITS) for name in network.files if name.startswith(UNITS + "10"))
    assert files == ["10-netplan-enp1s0.network", "10-netplan-~0.network", "10-netplan-~1.network"]
    assert sections(network.files[UNITS + files[1]])["Match"] == ["Kind=!*", "Name=en*"]
    assert sections(network.files[UNITS + files[2]])["Match"] == ["Kind=!*", "Name=e*"]
    assert network.complaints == []


def test_gateways_on_link_with_metrics_and_search_domains(configure: Configure) -> None:
    network = configure(
        "version: 2\nethernets:\n  e0:\n    addresses: [192.0.2.10/32]\n"
        "    nameservers: {search: [a.example, b.example]}\n"
        "    routes:\n    - {to: default, via: 198.51.100.1, on-link: true}\n"
        "    - {to: 0.0.0.0/0, via: 198.51.100.2, on-link: true, metric: 200}\n"
    )
    text = network.files[UNITS + "10-netplan-e0.network"]
    assert text.count("GatewayOnLink=true") == 2
    assert {"Gateway=198.51.100.1", "Gateway=198.51.100.2", "Metric=200"} <= set(sections(text)["Route"])
    assert "Domains=a.example b.example" in text
    assert "Conflicting" not in network.messages


def test_networkd_applies_the_rendered_files(configure: Configure) -> None:
    network = configure(
        "version: 2\nethernets: {lan0: {}, lan1: {addresses: [198.51.100.2/24]}}\n"
        "bridges:\n  br0:\n    interfaces: [lan0]\n    parameters: {stp: false}\n    addresses: [192.0.2.10/24]\n"
        "    routes: [{to: 203.0.113.0/24, via: 192.0.2.1}]\n",
        networkd=True,
        links="lan0 lan1",
        until="192.0.2.10/24 198.51.100.2/24 203.0.113.0/24",
    )
    addresses = {
        link["ifname"]: [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"]
        for link in json.loads(network.json("addresses"))
    }
    masters = {link["ifname"]: link.get("master") for link in json.loads(network.json("addresses"))}
    assert (addresses["br0"], addresses["lan1"], masters["lan0"]) == (["192.0.2.10"], ["198.51.100.2"], "br0")
    routes = {route["dst"]: route.get("gateway") for route in json.loads(network.json("routes"))}
    assert routes["203.0.113.0/24"] == "192.0.2.1"


@pytest.mark.parametrize("path", ["netplan/50-site.yaml", "network/interfaces", "NetworkManager/conf.d/site.conf"])
def test_files_of_another_renderer_are_reported(tmp_path: Path, path: str) -> None:
    system = System(tmp_path)
    system.path("/run/systemd/system").mkdir(parents=True)
    system.path(f"{etc_changes.UPPER}/{path}").parent.mkdir(parents=True)
    system.path(f"{etc_changes.UPPER}/{path}").write_text("x")
    (error,) = etc_changes.apply_etc_changes(system)
    assert "is not read; write the settings into network-config" in error


def converted(text: str) -> dict[str, object]:
    value, problems = version1.convert_version_1(document.parse_document(text.encode()).value)
    assert problems == []
    plain = value.plain()
    assert isinstance(plain, dict)
    return plain


VERSION_1: list[list[dict[str, object]]] = [
    [{"type": "physical", "name": "e0", "mac_address": "52:54:00:AB:CD:EF", "subnets": [{"type": "dhcp4"}]}],
    [{"type": "physical", "name": "e0", "mtu": 9000, "subnets": [{"type": "static", "address": "192.0.2.5/24",
      "gateway": "192.0.2.1", "dns_nameservers": ["192.0.2.53"], "dns_search": ["site.example"]}]}],
    [{"type": "physical", "name": "e0", "subnets": [{"type": "static", "address": "192.0.2.5",
      "netmask": "255.255.255.0", "gateway": "198.51.100.1"}]}],
    [{"type": "physical", "name": "e0"}, {"type": "physical", "name": "e1"},
     {"type": "bond", "name": "b0", "bond_interfaces": ["e0", "e1"],
      "params": {"bond-mode": "802.3ad", "bond-miimon": 100, "bond-lacp-rate": "fast"},
      "subnets": [{"type": "dhcp"}]},
     {"type": "vlan", "name": "b0.7", "vlan_link": "b0", "vlan_id": 7, "mtu": 1400,
      "subnets": [{"type": "static6", "address": "2001:db8::5/64", "gateway": "2001:db8::1"}]}],
    [{"type": "physical", "name": "e0"},
     {"type": "bridge", "name": "br0", "bridge_interfaces": ["e0"],
      "params": {"bridge_stp": False, "bridge_fd": 4, "bridge_pathcost": ["e0 50"]},
      "subnets": [{"type": "dhcp6"}]}],
    [{"type": "physical", "name": "e0", "subnets": [{"type": "static", "address": "192.0.2.5/24", "routes": [
      {"network": "10.0.0.0", "netmask": "255.0.0.0", "gateway": "192.0.2.9", "metric": 3}]}]},
     {"type": "nameserver", "address": ["192.0.2.53"], "search": ["site.example"]}],
]  # fmt: skip
# Runs cloud-init's command for each folder, and imports its modules once, which takes half a second.
CONVERT = """
import os, sys
import cloudinit.cmd.devel.net_convert, cloudinit.distros.debian
from cloudinit.cmd.main import main
for folder in sys.argv[1:]:
    child = os.fork()
    if not child:
        files = ["--network-data", f"{folder}/v1", "--directory", f"{folder}/out"]
        sys.exit(main(["cloud-init", "devel", "net-convert", "-k", "yaml", "-D", "debian", "-O", "netplan", *files]))
    if os.waitpid(child, 0)[1]:
        sys.exit("net-convert failed")
"""


@pytest.fixture(scope="module")
def converted_by_cloud_init(programs: NodePrograms, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Each of VERSION_1 in version 2."""
    folder = tmp_path_factory.mktemp("convert")
    folders = [folder / str(number) for number in range(len(VERSION_1))]
    for path, entries in zip(folders, VERSION_1, strict=True):
        path.mkdir()
        (path / "v1").write_text(yaml.safe_dump({"version": 1, "config": entries}))
    run_command(programs.tree.wrap_command(["python3", "-c", CONVERT, *folders], [folder]))
    files = [path / "out/etc/netplan/50-cloud-init.yaml" for path in folders]
    return [yaml.safe_load(path.read_text())["network"] for path in files]


@pytest.mark.parametrize("number", range(len(VERSION_1)))
def test_version_1_is_converted_like_cloud_init_does(number: int, converted_by_cloud_init: list[object]) -> None:
    text = yaml.safe_dump({"version": 1, "config": VERSION_1[number]})
    assert strings(converted(text)) == strings(converted_by_cloud_init[number])


def strings(value: object) -> object:
    """Every scalar as text, as netplan reads it."""
    if isinstance(value, dict):
        return {name: strings(entry) for name, entry in value.items()}
    return [strings(entry) for entry in value] if isinstance(value, list) else str(value).lower()


@pytest.mark.parametrize("name", ["all", "default", "100", "007", "0x10", "0o7", "0b1", "x" * 16, "a%b", "a:b"])
def test_a_name_that_networkd_ignores_is_reported(configure: Configure, name: str) -> None:
    network = configure(
        f"version: 2\nethernets: {{e0: {{dhcp4: true}}}}\ndummy-devices:\n  ? {json.dumps(name)}\n  : {{}}\n",
        networkd=True,
    )
    assert "network-config, line 4, column 5: " in network.messages
    assert "is not a valid interface name" in network.messages
    assert "DHCP=ipv4" in network.files[UNITS + "10-netplan-e0.network"]
    assert network.complaints, "systemd-networkd rejects the name"


@pytest.mark.parametrize("name", ["_", "08x", "1e3", "a.b", "x" * 15, "none", "-a"])
def test_a_name_that_networkd_accepts_is_accepted(configure: Configure, name: str) -> None:
    network = configure(f"version: 2\ndummy-devices: {{{json.dumps(name)}: {{}}}}\n", networkd=True)
    assert (network.messages, network.complaints) == ("", [])


def test_version_1_has_cloud_inits_defaults() -> None:
    version_2 = converted(
        """version: 1
config:
- type: bond
  name: b0
  bond_interfaces: [e0, e1]
  params: {}
  subnets:
  - {type: static, address: 192.0.2.5, routes: [{destination: 198.51.100.0, gateway: 192.0.2.1}]}
  - {type: static6, ip_address: "2001:db8::5"}
- {type: physical, name: e2, subnets: [{type: dhcp4, metric: 50}]}
- {type: vlan, name: v7, vlan_id: 7, vlan_link: e3}
"""
    )
    assert version_2["bonds"] == {
        "b0": {
            "interfaces": ["e0", "e1"],
            "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
            "routes": [{"to": "198.51.100.0/24", "via": "192.0.2.1"}],
        }
    }
    ethernets = {"e2": {"dhcp4": True, "dhcp4-overrides": {"route-metric": "50"}}, "e0": {}, "e1": {}, "e3": {}}
    assert version_2["ethernets"] == ethernets


def test_a_renderer_is_not_an_interface_and_a_merged_key_is_not_a_duplicate(configure: Configure) -> None:
    network = configure(
        "version: 2\nethernets:\n  renderer: networkd\n  e0: &all {dhcp4: true, dhcp6: true}\n"
        "  e1: {<<: *all, dhcp6: false}\n"
    )
    assert "renderer" not in network.messages
    assert "twice" not in network.messages
    assert "DHCP=yes" in network.files[UNITS + "10-netplan-e0.network"]
    assert "DHCP=ipv4" in network.files[UNITS + "10-netplan-e1.network"]


def test_version_1_keeps_entries_that_cloud_init_drops() -> None:
    version_2 = converted(
        yaml.safe_dump(
            {
                "version": 1,
                "config": [
                    {"type": "physical", "name": "e0", "subnets": [{"type": "static", "address": "192.0.2.5/24"}]},
                    {"type": "physical", "name": "e1", "subnets": [{"type": "dhcp4"}]},
                    {"type": "route", "destination": "10.0.0.0/8", "gateway": "192.0.2.1", "metric": 9},
                    {"type": "nameserver", "interface": "e1", "address": "198.51.100.53"},
                ],
            }
        )
    )
    ethernets = version_2["ethernets"]
    assert isinstance(ethernets, dict)
    assert ethernets["e0"]["routes"] == [{"to": "10.0.0.0/8", "via": "192.0.2.1", "metric": "9"}]
    assert ethernets["e1"]["nameservers"] == {"addresses": ["198.51.100.53"]}


def test_the_position_of_every_value_is_known() -> None:
    value = document.parse_document(
        b"network:\n version: 2\n ethernets:\n  e0: {dhcp4: yes, macaddress: 52:54:00:12:34:56}\n"
    ).value
    entry = value.get("ethernets").get("e0")  # type: ignore[union-attr]
    assert entry is not None
    assert entry.plain() == {"dhcp4": "yes", "macaddress": "52:54:00:12:34:56"}
    assert str(entry.data["macaddress"][0]) == "network-config, line 4, column 20"


def test_interfaces_that_do_not_exist_are_found() -> None:
    configured = [("lan", None, "52:54:00:00:00:99"), ("~0", "en*", None), ("wlan0", "wlan0", None)]
    present = {"enp1s0": "52:54:00:00:00:01"}
    assert unmatched(configured, present) == ["lan (52:54:00:00:00:99)", "wlan0"]
    assert unmatched([("any", None, None)], present) == []
    assert unmatched([("any", None, None)], {}) == ["any"]


def test_an_error_is_a_problem_with_a_position() -> None:
    with pytest.raises(Problem, match="line 1, column 5"):
        document.parse_document(b"a: [}")


scalars = st.none() | st.booleans() | st.integers(-5, 5000) | st.sampled_from(
    ["192.0.2.5/24", "192.0.2.1", "255.255.255.0", "2001:db8::5/64", "e0", "dhcp4", "static", "physical", "bond",
     "vlan", "bridge", "nameserver", "route", "loopback", "on", "", "é", "*"]
)  # fmt: skip
names = st.sampled_from(
    ["type", "name", "subnets", "address", "netmask", "prefix", "gateway", "routes", "params", "bond_interfaces",
     "bridge_interfaces", "vlan_link", "vlan_id", "mac_address", "mtu", "destination", "network", "metric", "search",
     "dns_nameservers", "dns_search", "interface", "bond-mode", "bridge_pathcost", "bridge_stp", "control", "accept-ra",
     "ethernets", "match", "config", "version"]
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=25
)

subnets = st.fixed_dictionaries(
    {"type": st.sampled_from(["static", "static6", "dhcp4", "manual", None])},
    optional={name: values for name in ("address", "netmask", "gateway", "routes", "dns_search", "control", "mtu")},
)
entries = st.fixed_dictionaries(
    {"type": st.sampled_from(["physical", "bond", "vlan", "bridge", "nameserver", "route", "loopback", "x"])},
    optional={
        "name": scalars, "bond_interfaces": values, "bridge_interfaces": values, "vlan_link": values, "mtu": values,
        "vlan_id": values, "params": values, "subnets": st.lists(subnets, max_size=2) | values, "address": values,
        "search": values, "interface": scalars, "destination": values, "gateway": values, "netmask": values,
        "metric": values, "mac_address": values,
    },
)  # fmt: skip


@settings(max_examples=examples(600), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    version=st.sampled_from([1, 1, 1, 2, None]),
    body=st.dictionaries(st.sampled_from(["ethernets", "wifis", "network", "bonds"]), values, max_size=2),
    config=st.lists(entries, max_size=3) | values,
)
def test_any_network_config_is_converted_or_refused_with_a_position(
    version: int | None, body: dict[str, object], config: object
) -> None:
    text = yaml.safe_dump({**body, "config": config, "version": version}, allow_unicode=True)
    try:
        value, problems = as_version_2(document.parse_document(text.encode()).value)
        document.NetplanWriter().text(value)
        physical_interfaces(value)
        assert all(problem.where for problem in problems)
    except Problem as problem:
        assert problem.where and problem.where.startswith("network-config")


@given(data=st.binary(max_size=200) | st.text(alphabet=" \n\t-:{}[]&*!|>'\"#%@,a1é", max_size=80).map(str.encode))
def test_bytes_that_are_not_yaml_are_refused_with_a_position(data: bytes) -> None:
    try:
        document.parse_document(data)
    except Problem as problem:
        assert problem.where and problem.where.startswith("network-config")
