"""What this node is to be: the image's settings, overridden key by key by the seed's."""

import ipaddress
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from osbuild.agent import system
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import ranges

IMAGE = "usr/lib/edge-osbuild/kubernetes.json"
SEED = "etc/edge-osbuild/kubernetes.json"

STABLE_ADDRESS = "203.0.113.254"  # of the interface edge0 (TEST-NET-3, RFC 5737), there whatever the network does
API_PORT = 6443
UNIT_BREAKS = frozenset(" \t\r\n\"'\\")  # systemd would split or change an argument with one of these
WRITTEN = "the image's is written by the build, the seed's by cloud-init: build or flash again"
GIVEN = "the profile's `kubernetes` and the seed's settings give it"


@dataclass(frozen=True)
class Settings:
    """The profile's `kubernetes` block (osbuild/profile/model.py), with secrets in place of references to them."""

    role: str = "none"
    token: str | None = None
    server: str | None = None
    node_ip: str | None = None
    disable: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    node_name: str = "localhost"

    def words(self, key: str) -> list[str]:
        """An entry of `config` that may be one string or a list of them, as in K3s."""
        value = self.config.get(key, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def arguments(self, key: str) -> list[str]:
        """An entry of `config` with arguments, given without dashes as in K3s."""
        return [f"--{word.removeprefix('--')}" for word in self.words(key)]

    def word(self, key: str, default: str) -> str:
        """An entry of `config` that is one string. K3s joins a list with commas."""
        return ",".join(self.words(key)) if key in self.config else default

    @property
    def cluster_cidr(self) -> str:
        return self.word("cluster-cidr", "10.42.0.0/16")

    @property
    def service_cidr(self) -> str:
        return self.word("service-cidr", "10.43.0.0/16")

    @property
    def pod_cidr(self) -> str:
        """The first node's part of the cluster's range: what the controller manager gives the server node."""
        network = ipaddress.ip_network(self.cluster_cidr)
        wanted = 24 if network.version == 4 else 64
        return str(next(iter(network.subnets(new_prefix=max(wanted, network.prefixlen)))))

    @property
    def api_service(self) -> str:
        """The address of the service `kubernetes`: the first of the range."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    @property
    def cluster_dns(self) -> str:
        return self.word("cluster-dns", str(ipaddress.ip_network(self.service_cidr)[10]))

    @property
    def ranges(self) -> ranges.Ranges:
        """The addresses that were given or follow from them, for `ranges.check`."""
        known = self.role == "server" or bool({"cluster-cidr", "service-cidr"} & set(self.config))
        return ranges.Ranges(
            cluster_cidr=self.cluster_cidr if known else None,
            service_cidr=self.service_cidr if known else None,
            cluster_dns=self.word("cluster-dns", "") or None,
            node_ip=self.node_ip,
            advertise_address=self.advertise_address if self.role == "server" else None,
        )

    @property
    def advertise_address(self) -> str:
        return self.word("advertise-address", self.node_ip or STABLE_ADDRESS)


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file. Raises `Problem`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Problem(f"not JSON: {error}", where=str(path), hint=WRITTEN) from error
    if not isinstance(content, dict):
        raise Problem("not a JSON object", where=str(path), hint=WRITTEN)
    return content


def load(root: Path) -> Settings:
    """Read the settings of the system below `root`. Raises `Problem` where they can't be used."""
    merged = {key: value for key, value in read(root / IMAGE).items() if value is not None}
    merged |= {key: value for key, value in read(root / SEED).items() if value is not None}
    known = {item.name for item in fields(Settings)}
    chosen: dict[str, Any] = {key: value for key, value in merged.items() if key in known}
    chosen |= {key: tuple(chosen[key]) for key in ("disable", "taints") if key in chosen}
    # Kubernetes' node names are lower case (RFC 1123 subdomains).
    name = merged.get("config", {}).get("node-name") or socket.gethostname()
    settings = Settings(**(chosen | {"node_name": str(name).lower()}))
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Raise `Problem` where settings contradict each other."""
    if settings.role not in ("server", "agent", "none"):
        raise Problem(f"role {settings.role!r} is none of server, agent, none", hint=GIVEN)
    if settings.role == "agent" and not (settings.server and settings.token):
        hint = "give both in the profile, the token by reference"
        raise Problem("an agent needs `server` and `token`", hint=hint)
    if settings.role == "none":
        return
    try:
        ranges.check(settings.ranges)
    except ranges.RangeError as error:
        raise Problem(str(error), where=error.name, hint=f"{error.hint}; {GIVEN}") from error


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a file as a whole, on the disk when this returns: a part of them is on the data partition."""
    system.write(path, content.encode(), mode)


def write_json(path: Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON, which every program that reads YAML takes too."""
    write(path, json.dumps(content, indent=2) + "\n", mode)


def write_arguments(path: Path, words: Iterable[str]) -> None:
    """Write `ARGS=…` for a unit's EnvironmentFile= (systemd.exec(5)); systemd splits it at white space."""
    listed = list(words)
    if broken := [word for word in listed if not word or set(word) & UNIT_BREAKS]:
        raise Problem(f"argument {broken[0]!r} has a character that a unit can't pass on", where=str(path), hint=GIVEN)
    write(path, f"ARGS={' '.join(listed)}\n", 0o600)
