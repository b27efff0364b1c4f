"""The keys of a profile's `network` block, a part of the table in profile.py. All of them change only the seed."""

from dataclasses import dataclass, field
from typing import Any

from osbuild.config.metadata import SecretRef, key

DEVICE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$"
DEVICE_FORM = "an interface name of at most 15 letters, digits, `_`, `.` and `-`"
DOMAIN = r"^~?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$"
PROXY = r"^(file:[^\u0000-\u001f\u007f]+|env:[A-Za-z_][A-Za-z0-9_]*|https?://[A-Za-z0-9.\[\]:-]+/?)$"
PROXY_FORM = "a URL such as `http://proxy.example:3128` without a password, or a `file:`/`env:` reference to one"
NO_PROXY = r"^[A-Za-z0-9.*\[\]:/_-]+$"


def seed_key(help: str, **limits: Any) -> dict[str, Any]:
    """Metadata of a key that changes the seed."""
    return key(help, affects="seed", **limits)


@dataclass(frozen=True)
class Route:
    to: str = field(metadata=seed_key("`default`, or a network such as `198.51.100.0/24`"))
    via: str = field(metadata=seed_key("address of the gateway"))
    metric: int | None = field(
        default=None,
        metadata=seed_key(
            "of two routes to one network, the one with the lower metric is used", minimum=0, maximum=2**32 - 1
        ),
    )
    on_link: bool = field(
        default=False,
        metadata=seed_key("the gateway is on this link, although it is in none of its addresses' networks"),
    )


@dataclass(frozen=True)
class Link:
    """The keys of every kind of interface."""

    name: str = field(metadata=seed_key("name of the interface", pattern=DEVICE, form=DEVICE_FORM))
    dhcp: bool = field(default=True, metadata=seed_key("get IPv4 and IPv6 addresses by DHCP"))
    addresses: tuple[str, ...] = field(
        default=(), metadata=seed_key("static addresses with prefix length, `192.0.2.5/24`")
    )
    gateway: str | None = field(default=None, metadata=seed_key("default gateway"))
    routes: tuple[Route, ...] = field(default=(), metadata=seed_key("further routes"))
    dns: tuple[str, ...] = field(default=(), metadata=seed_key("name servers"))
    search: tuple[str, ...] = field(
        default=(),
        metadata=seed_key("domains that host names are completed with", pattern=DOMAIN, form="a domain"),
    )
    mtu: int | None = field(
        default=None,
        metadata=seed_key("maximum transmission unit, in bytes", minimum=576, maximum=65535),
    )


@dataclass(frozen=True)
class Interface(Link):
    name: str = field(
        metadata=seed_key(
            "name of the interface, or a pattern such as `en*`",
            pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,32}$",
            form="an interface name such as `enp1s0`, or a pattern such as `en*`",
        )
    )
    mac: str | None = field(
        default=None,
        metadata=seed_key(
            "match by this hardware address instead of by name",
            pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$",
            form="six bytes such as `52:54:00:12:34:56`",
        ),
    )


@dataclass(frozen=True)
class Bond(Link):
    members: tuple[str, ...] = field(kw_only=True, metadata=seed_key("names of the interfaces in the bond"))
    mode: str = field(
        default="active-backup",
        metadata=seed_key(
            "how the members share the traffic",
            choices=(
                "active-backup", "802.3ad", "balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb",
            ),
        ),
    )  # fmt: skip
    monitor: int = field(
        default=100, metadata=seed_key("milliseconds between checks of the members' links", minimum=1, maximum=60000)
    )
    primary: str | None = field(default=None, metadata=seed_key("member to prefer, with the mode `active-backup`"))
    hash_policy: str | None = field(
        default=None,
        metadata=seed_key(
            "how a member is chosen, with the modes `802.3ad`, `balance-xor` and `balance-tlb`",
            choices=("layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4"),
        ),
    )
    lacp_rate: str | None = field(
        default=None,
        metadata=seed_key("how often LACP messages are sent, with the mode `802.3ad`", choices=("slow", "fast")),
    )


@dataclass(frozen=True)
class Vlan(Link):
    id: int = field(kw_only=True, metadata=seed_key("VLAN id", minimum=1, maximum=4094))
    link: str = field(kw_only=True, metadata=seed_key("name of the interface that carries the VLAN"))


@dataclass(frozen=True)
class Bridge(Link):
    members: tuple[str, ...] = field(default=(), metadata=seed_key("names of the interfaces in the bridge"))
    stp: bool = field(default=False, metadata=seed_key("run the spanning tree protocol"))


@dataclass(frozen=True)
class Wifi(Link):
    ssid: str = field(kw_only=True, metadata=seed_key("name of the wireless network"))
    password: SecretRef | None = field(
        default=None,
        metadata=seed_key("its passphrase, by reference; an open network if not given", secret=True, path="reference"),
    )
    hidden: bool = field(default=False, metadata=seed_key("the network does not announce its name"))


@dataclass(frozen=True)
class ProxySettings:
    http: str | None = field(
        default=None, metadata=seed_key("proxy for http", pattern=PROXY, form=PROXY_FORM, path="reference")
    )
    https: str | None = field(
        default=None, metadata=seed_key("proxy for https", pattern=PROXY, form=PROXY_FORM, path="reference")
    )
    no_proxy: tuple[str, ...] = field(
        default=(),
        metadata=seed_key(
            "hosts, domains and networks to reach without a proxy, in addition to the node and its cluster",
            pattern=NO_PROXY,
            form="a host, a domain such as `.example.com`, or a network such as `192.0.2.0/24`",
        ),
    )


@dataclass(frozen=True)
class NetworkSettings:
    interfaces: tuple[Interface, ...] = field(
        default=(),
        metadata=seed_key("interfaces to configure; DHCP on every Ethernet interface if there are none"),
    )
    bonds: tuple[Bond, ...] = field(
        default=(), metadata=seed_key("interfaces that combine others for failover or bandwidth")
    )
    vlans: tuple[Vlan, ...] = field(default=(), metadata=seed_key("virtual LANs (IEEE 802.1Q)"))
    bridges: tuple[Bridge, ...] = field(default=(), metadata=seed_key("bridges"))
    wifis: tuple[Wifi, ...] = field(default=(), metadata=seed_key("wireless interfaces"))
    proxy: ProxySettings = field(
        default_factory=ProxySettings,
        metadata=seed_key("proxy for containerd, the kubelet, K3s, RAUC and the edge agent"),
    )
