"""The device's own programs for the network (agent, netplan, systemd-networkd), run in a sandbox."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.cache import Cache, content_key, tree_digest
from osbuild.rootfs import agent_zipapp
from osbuild.rootfs.agent_zipapp import PACKAGES as CODE
from osbuild.rootfs.agent_zipapp import build_zipapp
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = ("cloud-init", "dbus", "iproute2", "netplan-generator", "python3", "python3-yaml", "systemd",
            "systemd-resolved", "udev", "util-linux", "wpasupplicant")  # fmt: skip
SERVER = Path(__file__).with_name("network_server.py")
# $DATA/kept: what the agent stored. /sys shows the interfaces of the own network: this host's would be found otherwise.
BEFORE = r"""
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /var/lib
[ -z "$NO_WIFI" ] || mount -t tmpfs tmpfs /usr/sbin
mkdir -p /var/lib/edge-osbuild /run/edge-osbuild/seed
cp network-config /run/edge-osbuild/seed/
[ ! -d kept ] || cp -a kept /var/lib/edge-osbuild/network
[ -z "$READ_ONLY" ] || mount -o remount,ro /var/lib
"""
AFTER = r"""
[ ! -d /var/lib/edge-osbuild/network ] || cp -a /var/lib/edge-osbuild/network stored
cp -a /run run
[ -n "$NETWORKD" ] || exit 0
echo 0123456789abcdef0123456789abcdef >/run/machine-id
mount --bind /run/machine-id /etc/machine-id
mount -o remount,ro /sys
ip link set lo up
for name in $LINKS; do ip link add "$name" type veth peer name "peer-$name"; ip link set "peer-$name" up; done
are_set() { for text; do { ip addr; ip route; } | grep -qF "$text" || return 1; done; }
export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
timeout --foreground 60 /usr/lib/systemd/systemd-networkd 2>networkd &
# networkd writes its state for the first time after it has loaded all files.
until [ -e /run/systemd/netif/state ] && are_set $UNTIL; do
    kill -0 $! || exit 1
    sleep 0.05
done
ip -json addr >addresses
ip -json route >routes
"""


@dataclass(frozen=True)
class NodePrograms:
    """The device's programs: a tools tree with its packages, and the agent of an image in a server (SERVER) in it."""

    tree: ToolsTree
    server: subprocess.Popen[str]


@dataclass(frozen=True)
class Network:
    """The result of the device's programs for one network-config."""

    folder: Path

    @property
    def files(self) -> dict[str, str]:
        """Return path below /run -> text of each generated file."""
        run = self.folder / "run"
        names = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
        return {
            str(path.relative_to(run)): path.read_text()
            for path in names
            if path.relative_to(run).parts[0] in ("systemd", "netplan", "udev")
        }

    @property
    def messages(self) -> str:
        """Return the agent's standard error."""
        return (self.folder / "messages").read_text()

    @property
    def complaints(self) -> list[str]:
        """Return systemd-networkd's messages about files that it could not parse completely."""
        lines = (self.folder / "networkd").read_text().splitlines()
        return [line for line in lines if re.search(r"\.(network|netdev):\d+:", line)]

    def json(self, name: str) -> str:
        return (self.folder / name).read_text()


def network_tools() -> ToolsTree:
    """Return a tools tree with the device's packages."""
    return unlocked_tools_tree(Cache(), "device-network", PACKAGES, "programs of the device's network")


def build_agent(tree: ToolsTree) -> Path:
    """Return the agent as an image has it. The cache has it if the code is the same; byte code takes a second."""
    cache = Cache()
    code = tree_digest(*CODE, Path(agent_zipapp.__file__), code=True)
    return cache.get_or_make(
        "test-agent", content_key(tree.root.name, code), lambda path: build_zipapp(path, tree.run_command)
    )


@contextmanager
def start_programs(folder: Path) -> Iterator[NodePrograms]:
    """Start the server for network-configs in `folder`."""
    tree = network_tools()
    agent = build_agent(tree)
    server = ["python3", "-IS", "-c", SERVER.read_text(), str(agent), BEFORE, AFTER]
    command = tree.wrap_command(server, [folder], read_only_binds=[(agent, str(agent))])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield NodePrograms(tree, process)


def configure(
    programs: NodePrograms, folder: Path, data: bytes, *, wifi: bool = True, stored: bytes | None = None,
    networkd: bool = False, links: str = "", until: str = "", read_only: bool = False,
) -> Network:  # fmt: skip
    """Run `edge-agent network` with the network-config `data`, then with `networkd` systemd-networkd.

    `stored` is the network-config of an earlier boot, `links` are interfaces (veth(4)) that exist when networkd starts.
    networkd ends once it has loaded all files and ip(8) shows all words of `until`; after 60 seconds, that is an error.
    With `read_only`, the agent cannot store anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network-config").write_bytes(data)
    if stored is not None:
        (folder / "kept").mkdir()
        (folder / "kept/network-config").write_bytes(stored)
    settings = {
        "DATA": str(folder), "NO_WIFI": "" if wifi else "yes", "LINKS": links, "UNTIL": until,
        "NETWORKD": "yes" if networkd else "", "READ_ONLY": "yes" if read_only else "",
    }  # fmt: skip
    assert programs.server.stdin and programs.server.stdout
    print(json.dumps(settings), file=programs.server.stdin, flush=True)
    status = programs.server.stdout.readline()
    assert status == "0\n", (folder / "log").read_text() + (folder / "messages").read_text()
    assert (folder / "output").read_text() == ""
    return Network(folder)
