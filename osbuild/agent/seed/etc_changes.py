"""Applies changes of the seed below /etc to programs that have read their configuration already, such as systemd."""

from dataclasses import dataclass

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.system import System

UPPER = "/run/edge-osbuild/etc/upper"  # upper layer of the overlayfs at /etc: files that are not from the image
TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class ConfigReader:
    """A program that has read `paths` below /etc already, and the `command` that makes it read them again."""

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
# Service that starts after the seed was applied -> its configuration files below /etc.
CONFIGURED = {
    "ssh.service": ("ssh/sshd_config", "ssh/sshd_config.d"),
    "containerd.service": ("containerd/config.toml", "containerd/conf.d"),
}

# Network configuration of programs that an image does not have.
UNUSED_NETWORK_CONFIG = ("netplan", "network/interfaces", "network/interfaces.d", "NetworkManager")


def apply_etc_changes(system: System) -> list[str]:
    """Make programs read the changes of the seed. Returns one error per program that failed."""
    if not system.path("/run/systemd/system").is_dir():  # sd_booted(3)
        return []
    errors = [
        f"/etc/{path} is not read; write the settings into network-config"
        for path in UNUSED_NETWORK_CONFIG
        if is_written(system, path)
    ]
    for reader in CONFIG_READERS:
        if any(is_written(system, path) for path in reader.paths) and (error := command_error(reader.command)):
            errors.append(f"{' '.join(reader.command)}: {error}")
    rules = sorted(path.name for path in system.path(f"{UPPER}/tmpfiles.d").glob("*.conf"))
    if rules and (error := command_error(("systemd-tmpfiles", "--create", *rules))):
        errors.append(f"systemd-tmpfiles: {error}")
    for unit in changed_units(system):
        if error := command_error(("systemctl", "--no-block", "try-restart", unit)):
            errors.append(f"{unit}: {error}")
    return errors


def is_written(system: System, path: str) -> bool:
    """Whether a file or a folder that is not empty was written below /etc since the boot."""
    changed_path = system.path(f"{UPPER}/{path}")
    return any(changed_path.iterdir()) if changed_path.is_dir() else changed_path.exists()


def changed_units(system: System) -> list[str]:
    """Services whose unit file or drop-in is from the seed. They have to be restarted if they run."""
    folder = system.path(f"{UPPER}/systemd/system")
    if not folder.is_dir():
        return []
    names = {path.name.removesuffix(".d") for path in folder.iterdir() if not path.is_symlink()}
    # A restart of an edge-* service would wait for itself, and a restart of D-Bus would disconnect its users.
    excluded = ("edge-", "dbus")
    return sorted(
        name for name in names if name.endswith(".service") and "@" not in name and not name.startswith(excluded)
    )


def seed_caused(system: System, units: list[str]) -> list[str]:
    """The failed `units` that the seed created, changed or configured. They are not faults of the image."""
    return [unit for unit in units if any(is_written(system, path) for path in unit_sources(unit))]


def unit_sources(unit: str) -> list[str]:
    """The files below /etc that define or configure a unit, without the prefix /etc."""
    properties = ("FragmentPath", "SourcePath", "DropInPaths")
    command = ["systemctl", "show", *(f"--property={name}" for name in properties), "--value", "--", unit]
    try:
        result = run_command(command, timeout=TIMEOUT)
    except CommandNotFinished:
        return []
    paths_of_unit = [path.removeprefix("/etc/") for path in result.stdout.split() if path.startswith("/etc/")]
    # The unit may also fail because of configuration files that it reads.
    return (
        paths_of_unit
        + [path for reader in CONFIG_READERS if unit in reader.command for path in reader.paths]
        + [path for name, paths in CONFIGURED.items() if name == unit for path in paths]
    )


def command_error(command: tuple[str, ...]) -> str:
    """Run a command and return its error; empty if it succeeds."""
    try:
        result = run_command(command, timeout=TIMEOUT)
    except CommandNotFinished as error:
        return str(error)
    return "" if result.returncode == 0 else " ".join(result.stderr.split()) or f"exit status {result.returncode}"
