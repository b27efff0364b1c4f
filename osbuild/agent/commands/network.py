"""`edge-agent network`: render network-config of the seed before systemd-networkd starts.

If that fails, the last configuration that worked is used, or else DHCP on every Ethernet interface. The problem is
reported, and the boot continues.
"""

import argparse
import fnmatch
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.network.document import parse_document
from osbuild.agent.network.netplan import RenderedNetwork, render_network
from osbuild.agent.system import System
from osbuild.shared.files import read_file, write_file

CURRENT = "/run/edge-osbuild/seed/network-config"  # from the seed of this boot
STORED = "/var/lib/edge-osbuild/network/network-config"
SCRATCH = "/run/edge-osbuild/netplan"
FALLBACK = "/run/systemd/network/88-edge-fallback.network"
# DHCP on every physical Ethernet interface that no other file matches. A seed may mask the file of the image.
DHCP = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n\n[Link]\nRequiredForOnline=no\n"
RESULT = "/run/edge-osbuild/network.json"
SETTLE_SECONDS = 10  # seconds for drivers to bring up interfaces that the configuration names


def configure_network(system: System) -> list[Problem]:
    """Install the network files of this boot in /run. Returns all problems of the network-config."""
    try:
        data = read_file(system.path(CURRENT))
    except OSError:
        return []
    problems: list[Problem] = []
    rendered: RenderedNetwork | None
    try:
        rendered = render_document(data, system)
    except Problem as problem:
        problems.append(problem)
        rendered = render_stored(data, problems, system)
    else:
        if rendered.files:
            store_document(data, system)
    if rendered is None:
        write_dhcp_fallback(system)
        return problems
    problems += rendered.problems
    install_files(rendered, system)
    absent = missing_interfaces(rendered, system)
    if absent and len(absent) == len(rendered.physical):
        write_dhcp_fallback(system)
        hint = f"DHCP is used instead on: {', '.join(sorted(list_interfaces(system))) or 'every Ethernet interface'}"
        problems.append(Problem("none of its interfaces exists", where="network-config", hint=hint))
    elif absent:
        message = f"no interface matches {', '.join(absent)}"
        hint = f"this node has: {', '.join(f'{name} ({mac})' for name, mac in sorted(list_interfaces(system).items()))}"
        problems.append(Problem(message, where="network-config", hint=hint))
    return problems


def render_document(data: bytes, system: System) -> RenderedNetwork:
    """Render network-config in a new scratch folder. Raises `Problem` for every kind of failure."""
    scratch = system.path(SCRATCH)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    try:
        return render_network(parse_document(data), scratch, system)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(f"netplan did not run: {error}", where="network-config") from error
    except Problem:
        raise
    except Exception as error:  # the node needs a network even if the file makes the parser fail
        raise Problem(f"cannot be rendered: {type(error).__name__}", where="network-config") from error


def render_stored(data: bytes, problems: list[Problem], system: System) -> RenderedNetwork | None:
    """Render the stored network-config; None if there is none. Adds a problem that says what is used instead."""
    stored = system.path(STORED)
    try:
        if (stored_data := read_file(stored)) != data:
            rendered = render_document(stored_data, system)
            problems.append(Problem("not used: the network has its last working configuration", where="network-config"))
            return rendered
    except (OSError, Problem):
        pass  # treated as missing
    problems.append(Problem("not used: DHCP on every Ethernet interface instead", where="network-config"))
    return None


def store_document(data: bytes, system: System) -> None:
    """Store a network-config that works, for later boots with an invalid one. A failure is only reported."""
    stored = system.path(STORED)
    try:
        if not stored.is_file() or stored.read_bytes() != data:
            write_file(stored, data, 0o600)
    except OSError as error:
        print(f"<4>network-config could not be stored: {error}", file=sys.stderr)


def write_dhcp_fallback(system: System) -> None:
    """Configure DHCP on every physical Ethernet interface that has no other configuration."""
    path = system.path(FALLBACK)
    make_readable_folder(path.parent)
    path.write_text(DHCP)
    path.chmod(0o644)  # systemd-networkd does not run as root, and this unit has a strict umask


def make_readable_folder(path: Path) -> None:
    """Create a folder that every user may read, with its parents, if it does not exist."""
    if not path.is_dir():
        make_readable_folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def install_files(rendered: RenderedNetwork, system: System) -> None:
    """Move the files to /run with their modes and owners, and make udev and systemd read them."""
    for name in rendered.files:
        source, target = rendered.folder / name, system.path("/run") / name
        make_readable_folder(target.parent)
        target.unlink(missing_ok=True)
        if source.is_symlink():
            target.symlink_to(Path("/run/systemd/system") / source.name)
        else:
            source.rename(target)
    if any(name.endswith((".link", ".rules")) for name in rendered.files):
        run_command("udevadm", "control", "--reload")
        # Names and link settings are applied to an interface when it is added.
        run_command("udevadm", "trigger", "--action=add", "--subsystem-match=net")
        run_command("udevadm", "settle", f"--timeout={SETTLE_SECONDS}")
    units = sorted({Path(name).name for name in rendered.files if name.endswith(".service")})
    if units:
        run_command("systemctl", "daemon-reload")
        run_command("systemctl", "--no-block", "start", *units)


def run_command(*arguments: str) -> None:
    """Run a program whose output goes to the journal. A failure to start it is only reported."""
    try:
        subprocess.run(arguments, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"<3>{arguments[0]}: {error}", file=sys.stderr)


def list_interfaces(system: System) -> dict[str, str]:
    """Name -> MAC address of each physical interface that exists now."""
    folder = system.path("/sys/class/net")
    return {
        path.name: system.text(f"/sys/class/net/{path.name}/address").strip()
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (path / "device").exists()
    }


def missing_interfaces(rendered: RenderedNetwork, system: System) -> list[str]:
    """Labels of configured interfaces that do not exist, after waiting for their drivers."""
    absent = unmatched(rendered.physical, list_interfaces(system))
    if absent:
        run_command("udevadm", "settle", f"--timeout={SETTLE_SECONDS}")
        absent = unmatched(rendered.physical, list_interfaces(system))
    return absent


def unmatched(configured: Sequence[tuple[str, str | None, str | None]], present: dict[str, str]) -> list[str]:
    """Labels of `configured` interfaces that match none of those `present` (name -> MAC address)."""
    return [
        label if mac is None else f"{label} ({mac})"
        for label, pattern, mac in configured
        if not any(
            (mac is None or mac == address.lower()) and (pattern is None or fnmatch.fnmatchcase(name, pattern))
            for name, address in present.items()
        )
    ]


def problem_line(problem: Problem) -> str:
    """A problem on one line."""
    return f"{problem} ({problem.hint})" if problem.hint else str(problem)


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def main(options: argparse.Namespace) -> int:
    system = System()
    problems = configure_network(system)
    write_file(system.path(RESULT), json.dumps({"problems": [problem_line(problem) for problem in problems]}).encode())
    for problem in problems:
        print("\n".join(f"<3>{line}" for line in problem.lines()), file=sys.stderr)
    return 0
