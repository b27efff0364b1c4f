"""The device's own programs for the network (agent, netplan, systemd-networkd), run in a sandbox."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.rootfs.agent_zipapp import build_zipapp
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = ("cloud-init", "dbus", "iproute2", "netplan-generator", "python3", "python3-yaml", "systemd",
            "systemd-resolved", "udev", "util-linux", "wpasupplicant")  # fmt: skip
# Runs in a network namespace with its own /sys, without interfaces of this host. $DATA/kept: what the agent stored.
SCRIPT = r"""
set -eu
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /var/lib
[ -z "$NO_WIFI" ] || mount -t tmpfs tmpfs /usr/sbin
mkdir -p /var/lib/edge-osbuild /run/edge-osbuild/seed
cp "$DATA/network-config" /run/edge-osbuild/seed/
[ ! -d "$DATA/kept" ] || cp -a "$DATA/kept" /var/lib/edge-osbuild/network
[ -z "$READ_ONLY" ] || mount -o remount,ro /var/lib
echo "exit $(umask 077; python3 -IS "$AGENT" network 2>"$DATA/messages"; echo $?)"
[ ! -d /var/lib/edge-osbuild/network ] || cp -a /var/lib/edge-osbuild/network "$DATA/stored"
cp -a /run "$DATA/run"
[ -n "$NETWORKD" ] || exit 0
echo 0123456789abcdef0123456789abcdef >/run/machine-id
mount --bind /run/machine-id /etc/machine-id
mount -o remount,ro /sys
ip link set lo up
for name in $LINKS; do ip link add "$name" type veth peer name "peer-$name"; ip link set "peer-$name" up; done
export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
timeout 60 /usr/lib/systemd/systemd-networkd 2>"$DATA/networkd" &
# networkd writes its state for the first time after it has loaded all files.
until [ -e /run/systemd/netif/state ] && { [ -z "$UNTIL" ] || ip addr | grep -q "$UNTIL"; }; do
    kill -0 $! || exit 1
    sleep 0.05
done
ip -json addr >"$DATA/addresses"
ip -json route >"$DATA/routes"
"""


@dataclass(frozen=True)
class NodePrograms:
    """The device's programs: a tools tree with its packages, and the agent as an image contains it."""

    tree: ToolsTree
    agent: Path


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


def build_programs(folder: Path) -> NodePrograms:
    """Build the agent in `folder`, which must exist."""
    tree = network_tools()
    build_zipapp(folder / "edge-agent", tree.run_command)
    return NodePrograms(tree, folder / "edge-agent")


def configure(
    programs: NodePrograms, folder: Path, data: bytes, *, wifi: bool = True, stored: bytes | None = None,
    networkd: bool = False, links: str = "", until: str = "", read_only: bool = False,
) -> Network:  # fmt: skip
    """Run `edge-agent network` with the network-config `data`, then with `networkd` systemd-networkd.

    `stored` is the network-config of an earlier boot, `links` are interfaces (veth(4)) that exist when networkd starts.
    networkd ends once it has loaded all files and ip(8) shows the text `until`, or after 60 seconds, which is an error.
    With `read_only`, the agent cannot store anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network-config").write_bytes(data)
    if stored is not None:
        (folder / "kept").mkdir()
        (folder / "kept/network-config").write_bytes(stored)
    settings = {
        "DATA": str(folder), "AGENT": str(programs.agent), "NO_WIFI": "" if wifi else "yes", "LINKS": links,
        "NETWORKD": "yes" if networkd else "", "UNTIL": until,
        "READ_ONLY": "yes" if read_only else "",
    }  # fmt: skip
    binds = [folder, programs.agent]
    command = programs.tree.wrap_command(["unshare", "--net", "sh", "-c", SCRIPT], binds, env=settings)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "exit 0\n"), result.stdout + result.stderr
    return Network(folder)
