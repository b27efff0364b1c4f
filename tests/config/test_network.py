"""The profile's `network`: what is wrong is refused with its position, what is right is rendered by the device."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from osbuild.agent.proxy import use_node_proxy
from osbuild.agent.system import System
from osbuild.config.load import load_profile
from osbuild.config.show import render_profile
from osbuild.host.cache import Cache
from osbuild.host.paths import overlays_folder
from osbuild.seed.cloud_init_schema import find_schemas, validate_seed
from osbuild.seed.proxy import PATH
from osbuild.seed.render import render_seed
from osbuild.shared.errors import Error
from tests.agent.network.test_network import UNITS, sections
from tests.support import networks
from tests.support.networks import NodePrograms

LAN = "  interfaces: [{name: lan0, dhcp: false}, {name: lan1, dhcp: false}]\n"
WIFI = "packages: [wpasupplicant]\nkernel: {flavour: generic}\nnetwork:\n  wifis: [{name: wl0, ssid: site, "

# Addresses that are not those of another host.
UNREACHABLE = [
    ("'0.0.0.0'", "no address"), ("'::'", "no address"), ("224.0.0.1", "multicast"), ("127.0.0.1", "loopback"),
    ("255.255.255.255", "broadcast"), ("0.0.0.1", "0.0.0.0/8"), ("'::ffff:192.0.2.1'", "IPv4 address"),
]  # fmt: skip

# profile below `network:` (or a whole one) -> text at the position, what the message and hint say.
WRONG = [
    (LAN + "  vlans: [{name: v, id: 0, link: lan0}]", "0", "from 1 to 4094"),
    (LAN + "  vlans: [{name: v, id: 4095, link: lan0}]", "4095", "from 1 to 4094"),
    (LAN + "  vlans: [{name: v, link: lan0}]", "{name: v,", "no `id`"),
    (LAN + "  vlans: [{name: v, id: 5, link: lan9}]", "lan9", "did you mean `lan1`?"),
    (LAN + "  vlans: [{name: v, id: 5, link: lan0}, {name: w, id: 5, link: lan0}]", "5", "the VLAN 5 on `lan0` twice"),
    (LAN + "  vlans: [{name: lan1, id: 5, link: lan0}]", "{name: la", "two interfaces with the name `lan1`"),
    (LAN + "  vlans: [{name: a-name-too-long-for-it, id: 5, link: lan0}]", "a-name-too-long-", "at most 15"),
    (LAN + "  vlans: [{name: a/b, id: 5, link: lan0}]", "a/b", "at most 15"),
    (LAN + "  vlans: [{name: edge0, id: 5, link: lan0}]", "edge0", "which the image creates itself"),
    (LAN + "  vlans: [{name: v, id: 1, link: w}, {name: w, id: 1, link: v}]", "{name: v,", "v → w → v"),
    (LAN + "  bonds: [{name: b, members: []}]", "[]", "no members"),
    (LAN + "  bonds: [{name: b}]", "{name: b", "no `members`"),
    (LAN + "  bonds: [{name: b, members: [lan0, eth9]}]", "eth9", "expected an interface of this profile"),
    (LAN + "  bonds: [{name: b, members: ['lan*']}]", "'lan*'", "not a pattern"),
    (LAN + "  bonds: [{name: b, members: [lan0], mode: lacp}]", "lacp", "active-backup, 802.3ad"),
    (LAN + "  bonds: [{name: b, members: [lan0], lacp_rate: fast}]", "fast", "with the mode active-backup"),
    (LAN + "  bonds: [{name: b, members: [lan0], primary: lan1}]", "lan1", "write one of: lan0"),
    (LAN + "  bonds: [{name: b, members: [lan0]}]\n  bridges: [{name: c, members: [lan0]}]", "lan0", "member of `b`"),
    (LAN + "  bonds: [{name: b, members: [c]}]\n  bridges: [{name: c, members: [b]}]", "c", "a physical interface"),
    (LAN + "  bridges: [{name: b, members: [c]}, {name: c, members: [b]}]", "c]}", "another bridge"),
    (
        "  interfaces: [{name: lan0, addresses: [192.0.2.5/24]}]\n  bridges: [{name: b, members: [lan0]}]",
        "[192.0.2.5/24]",
        "a member has no addresses of its own",
    ),
    (
        "  interfaces: [{name: a, addresses: [192.0.2.5/24]}, {name: b, addresses: [192.0.2.5/25]}]",
        "192.0.2.5/25",
        "192.0.2.5 of `a` again",
    ),
    (
        "  interfaces: [{name: a, addresses: [192.0.2.5/24], gateway: 192.0.2.1},\n"
        "    {name: b, addresses: [192.0.3.5/24], gateway: 192.0.3.1}]",
        "192.0.3.1",
        "metric: 200",
    ),
    ("  interfaces: [{name: a, dhcp: false, gateway: 192.0.2.1}]", "192.0.2.1", "without an address"),
    ("  interfaces: [{name: a, mac: '52:54:00:00:00:01'}, {name: a}]", "{name: a", "two interfaces with the name"),
    ("  interfaces: [{name: a, addresses: ['2001:db8::5/64'], mtu: 1200}]", "1200", "at least 1280"),
    ("  interfaces: [{name: a, search: ['no blanks']}]", "'no blanks'", "a domain"),
    ("ROUTE: {via: 192.0.2.1}", "{via: 192", "no `to`"),
    ("ROUTE: {to: default}", "{to: default", "no `via`"),
    ("ROUTE: {to: 10.0.0.5/8, via: 192.0.2.1}", "10.0.0.5/8", "write `10.0.0.0/8`"),
    ("ROUTE: {to: 10.0.0.0, via: 192.0.2.1}", "10.0.0.0", "write `10.0.0.0/32`"),
    ("ROUTE: {to: nowhere, via: 192.0.2.1}", "nowhere", "write `default`"),
    ("ROUTE: {to: '2001:db8::/32', via: 192.0.2.1}", "192.0.2.1", "one IP version"),
    ("ROUTE: {to: default, via: 192.0.3.1}", "192.0.3.1", "on_link: true"),
    ("ROUTE: {to: default, via: 192.0.2.5}", "192.0.2.5", "own address"),
    ("ROUTE: {to: default, via: gw}", "gw", "gateway's IP address"),
    ("ROUTE: {to: default, via: 192.0.2.1, metric: -1}", "-1", "from 0 to"),
    ("  wifis: [{name: wl0, ssid: site}]", "[{name: wl", "packages+: [wpasupplicant]"),
    (WIFI + "password: hush-hush}]", "hush-hush", "`file:PATH`"),
    (WIFI.replace("site", f"'{'s' * 33}'") + "}]", "'sssssssssssssss", "1 to 32 bytes"),
    (WIFI.replace("generic", "cloud") + "}]", "cloud", "flavour: generic"),
    ("  proxy: {http: 'proxy.example:3128'}", "'proxy.example:3", "http://proxy.example:3128"),
    ("  proxy: {http: 'http://me:hush@proxy.example:3128'}", "'http://me:hush@", "without a password"),
    ("  proxy: {no_proxy: [a.example]}", "[a.example]", "but no proxy"),
    ("  interfaces: [{name: a, addresses: [192.0.2.5/0]}]", "192.0.2.5/0", "prefix length of 0"),
    ("  interfaces: [{name: a, addresses: [255.255.255.255/32]}]", "255.255", "broadcast address"),
    ("  interfaces: [{name: a, addresses: [0.0.0.1/8]}]", "0.0.0.1/8", "0.0.0.0/8"),
    ("  interfaces: [{name: a, addresses: ['::ffff:192.0.2.5/120']}]", "'::ffff", "IPv4 address 192.0.2.5"),
    ("  interfaces: [{name: a, addresses: [203.0.113.254/24]}]", "203.0.113.254/24", "`edge0`"),
    *((f"  interfaces: [{{name: a, gateway: {text}}}]", text, message) for text, message in UNREACHABLE),
    *((f"ROUTE: {{to: 198.51.100.0/24, via: {text}, on_link: true}}", text, message)
      for text, message in UNREACHABLE if ":" not in text),
    ("  interfaces: [{name: a, addresses: [192.0.2.5/24], gateway: 192.0.2.255}]", "192.0.2.255", "broadcast"),
    ("  interfaces: [{name: a, addresses: [192.0.2.5/24], gateway: 192.0.2.0}]", "192.0.2.0", "of the network"),
    ("ROUTE: {to: default, via: 192.0.2.255}", "192.0.2.255", "broadcast"),
    ("ROUTE: {to: 127.0.0.0/8, via: 192.0.2.1}", "127.0.0.0/8", "loopback"),
    ("ROUTE: {to: 10.0.0.0/8, via: 192.0.2.1, metric: 7}, {metric: 7, to: 10.0.0.0/8, via: 192.0.2.1}", "{metric: 7",
     "192.0.2.1 twice"),
    ("  interfaces: [{name: a, dns: [0.0.0.0]}]", "0.0.0.0]", "no address"),
    ("  interfaces: [{name: a, dns: ['ff02::1']}]", "'ff02::1'", "multicast"),
    (f"  interfaces: [{{name: a, search: [{'a.' * 150}b]}}]", "a.a.a", "at most 253"),
    ("  interfaces: [{name: a, mac: 'ff:ff:ff:ff:ff:ff'}]", "'ff:ff", "no interface has"),
    ("  interfaces: [{name: a, mac: '01:00:5e:00:00:01'}]", "'01:00", "multicast"),
    ("  interfaces: [{name: a, mac: '00:00:00:00:00:00'}]", "'00:00", "zero"),
    ("  interfaces: [{name: renderer}]", "renderer", "netplan"),
    (LAN + "  bridges: [{name: renderer, members: [lan0]}]", "renderer", "netplan"),
    (LAN + "  vlans: [{name: renderer, id: 3, link: lan0}]", "renderer", "netplan"),
    ("  interfaces: [{name: 'en['}]", "'en['", "without `]`"),
    ("  interfaces: [{name: 'en[z-a]*'}]", "'en[z-a]*'", "`z-a`"),
    (LAN + "  bridges: [{name: b, members: [lan0]}, {name: c, members: [b]}]", "b]}", "another bridge"),
    (WIFI + "}]\n  bridges: [{name: b, members: [wl0]}]", "wl0]}", "a wireless interface"),
    (WIFI.replace("site", "'a\\b'") + "}]", "'a\\b'", "backslash"),
    *((f"  proxy: {{http: 'http://p:1', no_proxy: [{text}]}}", text, "expected a host or domain")
      for text in ("'.'", "'..'", "-a")),
    ("  proxy: {http: 'http://0.0.0.0:3128'}", "'http://0.0.0.0", "no address"),
    ("  proxy: {http: 'http://p:1', no_proxy: [192.0.2.5/24]}", "192.0.2.5/24", "prefix length"),
]  # fmt: skip


def profile(folder: Path, text: str) -> Path:
    head = "name: p\nversion: 1.0.0\n"
    text = text.replace("ROUTE: ", "  interfaces: [{name: a, addresses: [192.0.2.5/24], routes: [") + (
        "]}]" if text.startswith("ROUTE: ") else ""
    )
    path = folder / "p.yaml"
    path.write_text(head + (text if text.startswith("packages") else f"network:\n{text}") + "\n")
    return path


@pytest.mark.parametrize(("text", "position", "message"), WRONG)
def test_what_is_wrong_is_refused_with_its_position(tmp_path: Path, text: str, position: str, message: str) -> None:
    path = profile(tmp_path, text)
    with pytest.raises(Error) as caught:
        load_profile(path)
    assert caught.value.hint
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert "hush" not in f"{caught.value.message} {caught.value.hint}"
    file, line, column = str(caught.value.where).rsplit(":", 2)
    assert file == str(path)
    assert path.read_text().splitlines()[int(line) - 1][int(column) - 1 :].startswith(position)


# profile below `network:` -> file -> section -> lines that must be there.
RIGHT: list[tuple[str, dict[str, dict[str, set[str]]]]] = [
    (
        "  interfaces:\n  - {name: lan0, dhcp: false, addresses: [192.0.2.5/24], gateway: 192.0.2.1, mtu: 9000,\n"
        "     dns: [192.0.2.53], search: [a.example, b.example],\n"
        "     routes: [{to: 198.51.100.0/24, via: 192.0.2.254, metric: 50},\n"
        "       {to: default, via: '2001:db8::1', on_link: true}]}",
        {
            "10-netplan-lan0.network": {
                "Match": {"Name=lan0"}, "Link": {"MTUBytes=9000"},
                "Network": {"Address=192.0.2.5/24", "DNS=192.0.2.53", "Domains=a.example b.example"},
                "Route": {
                    "Destination=0.0.0.0/0", "Gateway=192.0.2.1", "Destination=198.51.100.0/24", "Gateway=192.0.2.254",
                    "Metric=50", "Destination=::/0", "Gateway=2001:db8::1", "GatewayOnLink=true",
                },
            }
        },
    ),
    (
        "  interfaces: [{name: 'en*'}, {name: wan, mac: '52:54:00:AB:CD:EF', dhcp: false}]",
        {
            "10-netplan-~0.network": {"Match": {"Name=en*", "Kind=!*"}, "Network": {"DHCP=yes"}},
            "10-netplan-wan.network": {"Match": {"PermanentMACAddress=52:54:00:ab:cd:ef"}},
        },
    ),
    (
        LAN + "  bonds: [{name: bond0, members: [lan0, lan1], mode: 802.3ad, lacp_rate: fast, hash_policy: layer3+4,\n"
        "    monitor: 50}]\n"
        "  vlans: [{name: mgmt, id: 20, link: bond0, dhcp: false, addresses: [192.0.2.10/24], gateway: 192.0.2.1},\n"
        "    {name: pods, id: 30, link: bond0}]\n"
        "  bridges: [{name: br0, members: [pods], dhcp: false, addresses: [198.51.100.1/24]}]",
        {
            "10-netplan-bond0.netdev": {
                "NetDev": {"Kind=bond"},
                "Bond": {"Mode=802.3ad", "LACPTransmitRate=fast", "TransmitHashPolicy=layer3+4", "MIIMonitorSec=50ms"},
            },
            "10-netplan-bond0.network": {"Network": {"DHCP=yes", "VLAN=mgmt", "VLAN=pods"}},
            "10-netplan-lan0.network": {"Network": {"Bond=bond0"}},
            "10-netplan-lan1.network": {"Network": {"Bond=bond0"}},
            "10-netplan-mgmt.netdev": {"NetDev": {"Kind=vlan"}, "VLAN": {"Id=20"}},
            "10-netplan-mgmt.network": {"Network": {"Address=192.0.2.10/24"}, "Route": {"Gateway=192.0.2.1"}},
            "10-netplan-pods.network": {"Network": {"Bridge=br0"}},
            "10-netplan-br0.netdev": {"NetDev": {"Kind=bridge"}, "Bridge": {"STP=false"}},
            "10-netplan-br0.network": {"Network": {"Address=198.51.100.1/24"}},
        },
    ),
    (
        LAN + "  bonds: [{name: bond0, members: [lan0, lan1], primary: lan1}]",
        {
            "10-netplan-bond0.netdev": {"Bond": {"Mode=active-backup", "MIIMonitorSec=100ms"}},
            "10-netplan-lan1.network": {"Network": {"Bond=bond0", "PrimarySlave=true"}},
        },
    ),
    (
        WIFI.replace("site", "'a \"site\"'") + "password: file:passphrase, hidden: true}]",
        {"10-netplan-wl0.network": {"Match": {"Name=wl0"}, "Network": {"DHCP=yes"}}},
    ),
]  # fmt: skip


ACCEPTED = [
    "  interfaces: [{name: a, addresses: [192.0.2.4/31], gateway: 192.0.2.5, dns: [127.0.0.1, '::1']}]",
    "  interfaces: [{name: a, addresses: ['2001:db8::5/64'], gateway: '2001:db8::'}]",  # the subnet's routers
    "  interfaces: [{name: a, addresses: [240.0.0.1/24, 10.0.0.255/8], gateway: 10.0.1.0}]",
    "  interfaces: [{name: 'eth[0-3]'}, {name: 'en[]a]*'}, {name: c, mac: '02:00:00:00:00:01'}]",
    "ROUTE: {to: 224.0.0.0/4, via: 192.0.2.1}, {to: 10.0.0.0/8, via: 192.0.2.1}, "
    "{to: 10.0.0.0/8, via: 192.0.2.2}, {to: 10.0.0.0/8, via: 192.0.2.1, metric: 9}",
    LAN + "  bridges: [{name: b, members: [lan0]}]\n  vlans: [{name: v, id: 3, link: b}]",
    "  proxy: {http: 'http://127.0.0.1:3128', no_proxy: ['*', '*.a.example', .b, my_host, '[::1]', 'a:80', '::1']}",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_a_node_can_use_is_accepted(tmp_path: Path, text: str) -> None:
    load_profile(profile(tmp_path, text))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePrograms]:
    with networks.start_programs(tmp_path_factory.getbasetemp()) as programs:
        yield programs


@pytest.mark.parametrize(("text", "files"), RIGHT)
def test_what_a_profile_says_is_what_the_device_renders(
    programs: NodePrograms, tmp_path: Path, text: str, files: dict[str, dict[str, set[str]]]
) -> None:
    (tmp_path / "passphrase").write_text("hush-hush-hush\n")
    seed = render_seed(load_profile(profile(tmp_path, text)).profile, "node-1", folder=tmp_path)
    validate_seed(seed.files, find_schemas(Cache()))
    network = networks.configure(programs, tmp_path / "node", seed.files["network-config"].encode(), networkd=True)
    for file, expected in files.items():
        rendered = sections(network.files[UNITS + file])
        for section, lines in expected.items():
            assert lines <= set(rendered[section]), (file, section, rendered)
    assert network.complaints == []
    assert "not used" not in network.messages
    if "wifis" in text:
        supplicant = network.files["netplan/wpa-wl0.conf"]
        assert 'psk="hush-hush-hush"' in supplicant and "scan_ssid=1" in supplicant
        assert "hush" not in network.messages


def test_a_member_asks_for_no_address_whatever_its_default(programs: NodePrograms, tmp_path: Path) -> None:
    text = "  interfaces: [{name: lan0}]\n  bridges: [{name: br0, members: [lan0]}]"
    seed = render_seed(load_profile(profile(tmp_path, text)).profile, "node-1", folder=tmp_path)
    network = networks.configure(programs, tmp_path / "node", seed.files["network-config"].encode())
    assert "DHCP" not in network.files[UNITS + "10-netplan-lan0.network"]
    assert "DHCP=yes" in network.files[UNITS + "10-netplan-br0.network"]


def test_a_passphrase_that_no_access_point_has_is_refused_without_quoting_it(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("hush\n")
    loaded = load_profile(profile(tmp_path, WIFI + "password: file:passphrase}]"))
    with pytest.raises(Error, match="8 to 63") as caught:
        render_seed(loaded.profile, "node-1", folder=tmp_path)
    assert "hush" not in str(caught.value)


def proxied(folder: Path, text: str) -> dict[str, str]:
    """Variable -> value of the environment file that a seed writes for root only."""
    loaded = load_profile(profile(folder, text))
    data = yaml.safe_load(render_seed(loaded.profile, "node-1", folder=folder).files["user-data"])
    (entry,) = [entry for entry in data["write_files"] if entry["path"] == PATH]
    assert entry["permissions"] == "0600"
    return dict(line.split("=", 1) for line in entry["content"].splitlines())


def test_a_proxy_is_for_everything_but_the_node_and_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "  interfaces: [{name: lan0, addresses: [192.0.2.5/24]}]\n"
        "  proxy: {http: 'http://proxy.example:3128', https: 'http://proxy.example:3128', no_proxy: [.site.example]}\n"
        "overlays: [base, kubernetes]\nkubernetes: {role: agent, server: 'https://192.0.2.10:6443', token: env:TOKEN,\n"
        "  node_ip: 192.0.2.5, config: {cluster-cidr: 10.50.0.0/16}}"
    )
    monkeypatch.setenv("TOKEN", "0123456789abcdef0123456789abcdef")
    variables = proxied(tmp_path, text)
    assert variables["http_proxy"] == variables["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert variables["no_proxy"] == variables["NO_PROXY"]
    assert set(variables["no_proxy"].split(",")) == {
        "localhost", "127.0.0.0/8", "::1", "192.0.2.5", "192.0.2.0/24", "203.0.113.254", "10.50.0.0/16",
        "10.43.0.0/16", ".svc",
        ".cluster.local", "192.0.2.10", ".site.example",
    }  # fmt: skip


def test_a_proxys_password_is_a_reference_and_only_in_roots_file(tmp_path: Path) -> None:
    (tmp_path / "proxy").write_text("http://me:hush%40@proxy.example:3128\n")
    variables = proxied(tmp_path, "  proxy: {https: file:proxy}")
    assert variables["https_proxy"] == "http://me:hush%40@proxy.example:3128"
    assert "http_proxy" not in variables
    loaded = load_profile(tmp_path / "p.yaml")
    assert "hush" not in render_profile(loaded)
    assert "hush" not in repr(render_seed(loaded.profile, "node-1", folder=tmp_path))


@pytest.mark.parametrize(
    "secret",
    ["proxy.example:3128", "ftp://hush@p:1", "http://me:hush@p:99999", "http://me:hush\nB=C@p:1", "http://hush@/"],
)
def test_a_text_that_is_not_a_proxy_url_is_refused_without_quoting_it(tmp_path: Path, secret: str) -> None:
    (tmp_path / "proxy").write_text(secret)
    with pytest.raises(Error, match="URL of a proxy") as caught:
        proxied(tmp_path, "  proxy: {https: file:proxy}")
    assert "hush" not in f"{caught.value} {caught.value.hint}"


def test_systemd_reads_the_file_as_it_was_meant_and_the_agent_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proxy").write_text("http://me:a'b$c;d%23e@proxy.example:3128\n")
    variables = proxied(tmp_path, "  proxy: {http: file:proxy}")
    file = tmp_path / "root/etc/edge-osbuild/proxy.env"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    for name in variables:
        monkeypatch.setenv(name, "")  # so that it is set back at the end, also if nothing had set it before
        monkeypatch.delenv(name)
    use_node_proxy(System(tmp_path / "root"))
    assert {name: os.environ[name] for name in variables} == variables
    assert urllib.request.getproxies()["http"] == variables["http_proxy"]


@pytest.mark.parametrize("unit", ["containerd", "k3s-server", "k3s-agent", "kubelet", "rauc"])
def test_whatever_reaches_other_hosts_reads_the_proxy(unit: str) -> None:
    texts = [path.read_text() for path in overlays_folder().glob(f"*/usr/lib/systemd/system/{unit}.service.d/*.conf")]
    assert any(f"EnvironmentFile=-{PATH}" in text for text in texts)
