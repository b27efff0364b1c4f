"""What the seed wrote to /etc, and how the system takes it up: systemd read its units before the seed was applied."""

import subprocess
from dataclasses import dataclass

from osbuild.agent.system import System

UPPER = "/run/edge-osbuild/etc/upper"  # the overlay's upper layer: files of /etc that are not the image's
TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class ConfigReader:
    """`paths`, below /etc, are read by a program that has run already; `command` has it read them again."""

    paths: tuple[str, ...]
    command: tuple[str, ...]


RESTART = ("systemctl", "--no-block", "try-restart")
CONFIG_READERS = (
    ConfigReader(("systemd/system", "systemd/system.conf.d", "fstab"), ("systemctl", "daemon-reload")),
    ConfigReader(("fstab",), ("systemctl", "--no-block", "start", "remote-fs.target")),
    ConfigReader(("udev/rules.d", "udev/hwdb.d"), ("udevadm", "control", "--reload")),
    ConfigReader(("modules-load.d", "modules"), ("systemctl", "--no-block", "restart", "systemd-modules-load.service")),
    ConfigReader(("sysctl.d", "sysctl.conf"), ("systemctl", "--no-block", "restart", "systemd-sysctl.service")),
    ConfigReader(("systemd/journald.conf.d", "systemd/journald.conf"), (*RESTART, "systemd-journald.service")),
    ConfigReader(("systemd/resolved.conf.d", "systemd/resolved.conf"), (*RESTART, "systemd-resolved.service")),
    ConfigReader(("systemd/timesyncd.conf.d", "systemd/timesyncd.conf"), (*RESTART, "systemd-timesyncd.service")),
    ConfigReader(("systemd/networkd.conf.d", "systemd/networkd.conf"), (*RESTART, "systemd-networkd.service")),
    ConfigReader(("systemd/logind.conf.d", "systemd/logind.conf"), (*RESTART, "systemd-logind.service")),
)
# Services that start after the seed was applied -> what they are configured by.
CONFIGURED = {
    "ssh.service": ("ssh/sshd_config", "ssh/sshd_config.d"),
    "containerd.service": ("containerd/config.toml", "containerd/conf.d"),
}

# Configuration of programs that an image does not have.
UNREAD = ("netplan", "network/interfaces", "network/interfaces.d", "NetworkManager")


def apply_etc_changes(system: System) -> list[str]:
    """Have the system read what the seed wrote; returns an error for each program that could not."""
    if not system.path("/run/systemd/system").is_dir():  # sd_booted(3)
        return []
    errors = [f"/etc/{path} is not read: write it into network-config" for path in UNREAD if is_written(system, path)]
    for reader in CONFIG_READERS:
        if any(is_written(system, path) for path in reader.paths) and (said := run_command(reader.command)):
            errors.append(f"{' '.join(reader.command)}: {said}")
    rules = sorted(path.name for path in system.path(f"{UPPER}/tmpfiles.d").glob("*.conf"))
    if rules and (said := run_command(("systemd-tmpfiles", "--create", *rules))):
        errors.append(f"systemd-tmpfiles: {said}")
    for unit in changed_units(system):
        if said := run_command(("systemctl", "--no-block", "try-restart", unit)):
            errors.append(f"{unit}: {said}")
    return errors


def is_written(system: System, path: str) -> bool:
    """Whether a file, or a folder with something in it, was written below /etc since the boot."""
    found = system.path(f"{UPPER}/{path}")
    return any(found.iterdir()) if found.is_dir() else found.exists()


def changed_units(system: System) -> list[str]:
    """Services with a drop-in, or a file of their own, from the seed: those that run must be started again."""
    folder = system.path(f"{UPPER}/systemd/system")
    if not folder.is_dir():
        return []
    names = {path.name.removesuffix(".d") for path in folder.iterdir() if not path.is_symlink()}
    # An edge-* service would wait for itself, and a restart of D-Bus would cut off everything that uses it.
    kept = ("edge-", "dbus")
    return sorted(name for name in names if name.endswith(".service") and "@" not in name and not name.startswith(kept))


def seed_caused(system: System, units: list[str]) -> list[str]:
    """Those of the failed `units` that the seed has made, changed or configured: no fault of the image."""
    return [unit for unit in units if any(is_written(system, path) for path in unit_sources(unit))]


def unit_sources(unit: str) -> list[str]:
    """Files below /etc, without that prefix, that a unit is made from."""
    properties = ("FragmentPath", "SourcePath", "DropInPaths")
    command = ["systemctl", "show", *(f"--property={name}" for name in properties), "--value", "--", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [path.removeprefix("/etc/") for path in done.stdout.split() if path.startswith("/etc/")]
    # A unit that another service's configuration, written by the seed, keeps from starting.
    return (
        found
        + [path for reader in CONFIG_READERS if unit in reader.command for path in reader.paths]
        + [path for name, paths in CONFIGURED.items() if name == unit for path in paths]
    )


def run_command(command: tuple[str, ...]) -> str:
    """Run a command; what it said if it failed, else nothing."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit status {done.returncode}"
