"""A device with RAUC and rauc-hawkbit-updater in a root of its own, under a kernel that runs as a process.

The kernel is User Mode Linux, because a host's kernel may lack dm-verity or nbd, which RAUC needs. It needs neither
an emulator nor rights on the host's devices. It has a network namespace of its own, in which 10.0.2.2 leads to a port
of this host.
"""

import itertools
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from osbuild.bundle.signing import prepare_signing
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.image.rauc_config import FORMATS, KEYRING, render_key_file
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.debian import Deb, PackageArchive
from osbuild.keys.key_folder import KeyFolder
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree
from tests.support.relayed_network import PortRelay, relayed_port

HOST, LINK = "10.0.2.2", "tap0"
COMPATIBLE = "edge-x86_64"
UPDATER, NEWER = "rauc-hawkbit-updater", "forky"
NEWER_PACKAGES = (UPDATER, "user-mode-linux", "rauc", "libnl-3-200", "libnl-genl-3-200")
"""packages of the next release of Debian: the updater, which Debian 13 does not have, a kernel that also runs on new
processors, and a newer RAUC with its libraries"""
PACKAGES = (
    "dbus", "iproute2", "kmod", "libcurl4t64", "libglib2.0-0t64", "libjson-glib-1.0-0", "mount", "openssl", "rauc",
    "rauc-service", "squashfs-tools",
)  # fmt: skip
SHARED = "/run/device"
"""where the device has the folder that it shares with a test, which is also the working folder of scripts"""
PATIENCE = 600.0  # seconds; a busy machine takes long
SLOT_SIZE = 48  # MiB
NETWORK = f"""
ip tuntap add {LINK} mode tap vnet_hdr; ip address add {HOST}/24 dev {LINK}; ip link set {LINK} up; exec "$@"
"""
# PID 1. It runs the files command-1, command-2 and so on, which appear in the shared folder.
INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs none /run; mkdir {SHARED}; mount --bind FOLDER {SHARED}; cd {SHARED}
for folder in tmp etc/ssl/certs; do mount -t tmpfs -o mode=1777 none /$folder; done
cp server-ca.crt /etc/ssl/certs/ca-certificates.crt
modprobe -a -d {SHARED}/modules loop nbd dm-mod dm-verity squashfs
ip link set lo up; ip address add 10.0.2.15/24 dev vec0; ip link set vec0 up
for slot in 0 1; do truncate -s {SLOT_SIZE}M /run/slot-$slot; losetup /dev/loop$slot /run/slot-$slot; done
mkdir -p /run/dbus /run/rauc-data; dbus-daemon --system --fork
rauc --conf=system.conf --override-boot-slot=a service > rauc.log 2>&1 &
until dbus-send --system --print-reply --dest=org.freedesktop.DBus /org/freedesktop/DBus \\
  org.freedesktop.DBus.GetNameOwner string:de.pengutronix.rauc; do sleep 0.2; done
number=1
while :; do
  if [ -e command-$number ]; then
    sh command-$number > output-$number 2>&1; echo $? > status.new; mv status.new status-$number
    number=$((number + 1))
  fi
  sleep 0.1
done
"""


def updater_tools() -> ToolsTree:
    """Return a tools tree with the programs of the device, and those that make its bundles. Raises `Error`.

    Its versions are chosen once per cache.
    """
    cache, native = Cache(), Architecture.native()

    def resolve(path: Path) -> None:
        newer, archive = PackageArchive(cache, native, NEWER), PackageArchive(cache, native)
        newer.update_index([f"{NEWER}-security", f"{NEWER}-updates"])  # only as far as the mirror has them
        archive.update_index()
        added = [deb for deb in newer.resolve_packages(NEWER_PACKAGES) if deb.name in NEWER_PACKAGES]
        newer.download_packages(added)
        debs = [*(deb for deb in archive.resolve_packages(PACKAGES) if deb.name not in NEWER_PACKAGES), *added]
        path.write_text(json.dumps([asdict(deb) for deb in debs]))

    versions = cache.get_or_make(
        "hawkbit-updater", content_key(SUITE, NEWER, native, NEWER_PACKAGES, PACKAGES), resolve
    )
    debs = [Deb(**entry) for entry in json.loads(versions.read_text())]
    return make_tools_tree(cache, debs, f"device with {UPDATER}")


@dataclass
class UpdaterDevice:
    """A running device, which shares `folder` with the test."""

    folder: Path
    process: subprocess.Popen[str]
    relay: PortRelay
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self, script: str) -> int:
        """Start a shell script, and return its number. It must end before the next one begins."""
        number = next(self.numbers)
        new = self.folder / "command.new"
        new.write_text(script)
        new.rename(self.folder / f"command-{number}")
        return number

    def finish(self, number: int) -> tuple[int, str]:
        """Return the status and the output of a script."""
        status, end = self.folder / f"status-{number}", time.monotonic() + PATIENCE
        while not status.exists():
            assert self.process.poll() is None, (self.folder / "console").read_text()[-3000:]
            assert time.monotonic() < end, (self.folder / "console").read_text()[-3000:]
            time.sleep(0.1)
        return int(status.read_text()), (self.folder / f"output-{number}").read_text()

    def run(self, script: str) -> tuple[int, str]:
        """Run a shell script, and return its status and its output."""
        return self.finish(self.begin(script))

    def configure(self, client: Mapping[str, str]) -> str:
        """Write a configuration of rauc-hawkbit-updater, and return the command that uses it."""
        settings = {
            "ssl": "true", "ssl_verify": "true", "tenant_id": "DEFAULT", "retry_wait": "2", "connect_timeout": "60",
            "timeout": "60", "log_level": "debug", **client,
        }  # fmt: skip
        (self.folder / "updater.conf").write_text(
            render_key_file({"client": settings, "device": {"product": "kiosk", "note": "a b"}})
        )
        return f"{UPDATER} -c {SHARED}/updater.conf"


@contextmanager
def running_device(
    tools: ToolsTree, folder: Path, keyring: bytes, authority: Path, port: int
) -> Iterator[UpdaterDevice]:
    """Run a device that trusts `keyring` for bundles, and the server at `port` with a certificate of `authority`."""
    settings = {
        "system": {
            "compatible": COMPATIBLE, "bootloader": "noop", **FORMATS, "mountprefix": "/run/rauc",
            "data-directory": "/run/rauc-data",
        },
        "keyring": {**KEYRING, "path": f"{SHARED}/keyring.pem"},
        **{f"slot.rootfs.{number}": {"device": f"/dev/loop{number}", "type": "raw", "bootname": name}
           for number, name in enumerate("ab")},
    }  # fmt: skip
    (folder / "system.conf").write_text(render_key_file(settings))
    (folder / "keyring.pem").write_bytes(keyring)
    (folder / "server-ca.crt").write_bytes(authority.read_bytes())
    for path in (folder / "modules/lib", folder / "modules/usr/lib"):  # versions of modprobe differ
        path.mkdir(parents=True)
        (path / "modules").symlink_to("/usr/lib/uml/modules")
    (folder / "init").write_text(INIT.replace("FOLDER", str(folder)))
    (folder / "init").chmod(0o755)
    kernel = ["linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "rw", f"init={folder}/init", "con=null",
              "con0=null,fd:1", f"vec0:transport=tap,ifname={LINK},depth=128,gro=1"]  # fmt: skip
    with (folder / "console").open("w") as console:
        process = subprocess.Popen(
            ["unshare", "--net", "--", *tools.wrap_command(["sh", "-c", NETWORK, "sh", *kernel], [folder])],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, text=True,
        )  # fmt: skip
    try:
        with relayed_port(process.pid, HOST, port) as relay:
            yield UpdaterDevice(folder, process, relay)
    finally:
        process.kill()
        process.wait(60)


def make_rauc_bundle(tools: ToolsTree, keys: KeyFolder, path: Path, version: str, image: bytes, **update: str) -> None:
    """Write a bundle with RAUC, for one slot."""
    content = path.with_suffix(".content")
    content.mkdir()
    (content / "rootfs.img").write_bytes(image)
    sections = {
        "update": {"compatible": COMPATIBLE, "version": version, **update},
        "bundle": {"format": "verity"},
        "image.rootfs": {"filename": "rootfs.img"},
    }
    (content / "manifest.raucm").write_text(render_key_file(sections))
    signing = prepare_signing(keys, tools)
    command = ["rauc", "bundle", str(content), str(path)]
    signing.run_rauc(tools, command, path.parent, {"TMPDIR": str(path.parent)})
