"""`edge-agent network`: render network-config of the seed before systemd-networkd starts.

What fails here costs the network only: the last configuration that worked is used, or else DHCP on every Ethernet
interface, and both are reported.
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
from osbuild.shared.files import write_file

GIVEN = "/run/edge-osbuild/seed/network-config"  # of the seed of this boot
STORED = "/var/lib/edge-osbuild/network/network-config"
SCRATCH = "/run/edge-osbuild/netplan"
FALLBACK = "/run/systemd/network/88-edge-fallback.network"
# Every physical Ethernet interface that no other file names. The file of the image may be masked by a seed.
DHCP = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n\n[Link]\nRequiredForOnline=no\n"
RESULT = "/run/edge-osbuild/network.json"
SETTLE_SECONDS = 10  # seconds for drivers to bring up interfaces that the configuration names


def configure_network(system: System) -> list[Problem]:
    """Install the files for the network of this boot in /run; returns everything that is wrong with the seed's."""
    try:
        data = system.path(GIVEN).read_bytes()
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
    """Render network-config in a new scratch folder. Raises `Problem` for whatever happens."""
    scratch = system.path(SCRATCH)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    try:
        return render_network(parse_document(data), scratch, system)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(f"netplan did not run: {error}", where="network-config") from error
    except Problem:
        raise
    except Exception as error:  # whatever a file does to the parser, the node must have a network
        raise Problem(f"can't be rendered: {type(error).__name__}", where="network-config") from error


def render_stored(data: bytes, problems: list[Problem], system: System) -> RenderedNetwork | None:
    """What the last good network-config renders to, None if there is none; adds what is used to `problems`."""
    kept = system.path(STORED)
    try:
        if kept.is_file() and (before := kept.read_bytes()) != data:
            rendered = render_document(before, system)
            problems.append(Problem("not used: the network has its last working configuration", where="network-config"))
            return rendered
    except (OSError, Problem):
        pass  # as if there were none
    problems.append(Problem("not used: DHCP on every Ethernet interface instead", where="network-config"))
    return None


def store_document(data: bytes, system: System) -> None:
    """Store network-config for boots whose seed has one that can't be used. A full disk costs this copy only."""
    kept = system.path(STORED)
    try:
        if not kept.is_file() or kept.read_bytes() != data:
            write_file(kept, data, 0o600)
    except OSError as error:
        print(f"<4>network-config could not be stored: {error}", file=sys.stderr)


def write_dhcp_fallback(system: System) -> None:
    """Ask for an address on every physical Ethernet interface that has no configuration."""
    path = system.path(FALLBACK)
    make_readable_folder(path.parent)
    path.write_text(DHCP)
    path.chmod(0o644)  # systemd-networkd is not root, and this unit's umask is none of its business


def make_readable_folder(path: Path) -> None:
    """Make a folder of /run that everyone may read, if there is none."""
    if not path.is_dir():
        make_readable_folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def install_files(rendered: RenderedNetwork, system: System) -> None:
    """Copy the files to /run, with modes and owners, and have udev and systemd read theirs."""
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
    """Run a program; what it says is in the journal, and the network is configured without it."""
    try:
        subprocess.run(arguments, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"<3>{arguments[0]}: {error}", file=sys.stderr)


def list_interfaces(system: System) -> dict[str, str]:
    """name -> MAC address of each physical interface that exists now."""
    every = system.path("/sys/class/net")
    return {
        path.name: system.text(f"/sys/class/net/{path.name}/address").strip()
        for path in (every.iterdir() if every.is_dir() else ())
        if (path / "device").exists()
    }


def missing_interfaces(rendered: RenderedNetwork, system: System) -> list[str]:
    """Labels of interfaces that don't exist, after drivers had time to bring them up."""
    absent = unmatched(rendered.physical, list_interfaces(system))
    if absent:
        run_command("udevadm", "settle", f"--timeout={SETTLE_SECONDS}")
        absent = unmatched(rendered.physical, list_interfaces(system))
    return absent


def unmatched(wanted: Sequence[tuple[str, str | None, str | None]], present: dict[str, str]) -> list[str]:
    """Labels of `wanted` that fit none of the interfaces `present` (name -> MAC address)."""
    return [
        label if mac is None else f"{label} ({mac})"
        for label, pattern, mac in wanted
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
