"""netplan's generator (netplan-generate(8)): from version 2 of network-config to files for networkd, udev and Wi-Fi."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.network.document import Document, NetplanWriter, Position, Value
from osbuild.agent.network.version1 import convert_version_1
from osbuild.agent.system import System
from osbuild.shared.interface_names import name_problem
from osbuild.shared.quoting import quoted

GENERATE = "/usr/libexec/netplan/generate"
# What the generator writes: (file, program that it needs). Everything else is for a renderer that no image has.
KNOWN = (
    (re.compile(r"systemd/network/10-netplan-[^/]+\.(link|netdev|network)"), None),
    (re.compile(r"netplan/wpa-[^/]+\.conf"), "/usr/sbin/wpa_supplicant"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-wpa-[^/]+\.service"), "/usr/sbin/wpa_supplicant"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-regdom\.service"), "/usr/sbin/iw"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-sriov-[^/]+\.service"), "/usr/sbin/netplan"),
    (re.compile(r"udev/rules\.d/99-netplan-[^/]+\.rules"), None),
)
# Lists for NetworkManager, Open vSwitch and a service that does not run here.
UNUSED = re.compile(r"udev/rules\.d/90-netplan\.rules|.*netplan-ovs-cleanup\.service|.*wait-online\.service\.d/.*")
PACKAGES = {"/usr/sbin/wpa_supplicant": "wpasupplicant", "/usr/sbin/iw": "iw", "/usr/sbin/netplan": "netplan.io"}
LONGEST = 300  # characters of what netplan says, which quotes values
GLOB = re.compile(r"[*?\[]")
PHYSICAL = ("ethernets", "wifis")
SECTIONS = ("ethernets", "wifis", "bonds", "bridges", "vlans", "vrfs", "tunnels", "dummy-devices", "virtual-ethernets")


@dataclass(frozen=True)
class RenderedNetwork:
    """What netplan made of a configuration: files below `folder` (which stands for /run), and what it left out."""

    folder: Path
    files: tuple[str, ...]
    physical: tuple[tuple[str, str | None, str | None], ...]
    """(label, name or pattern, MAC address) of each physical interface"""
    problems: tuple[Problem, ...]


def render_network(parsed: Document, scratch: Path, system: System) -> RenderedNetwork:
    """Render a parsed network-config in the empty folder `scratch`. Raises `Problem`."""
    converted, left_out = as_version_2(parsed.value)
    document, missing_programs = without_missing(converted, system)
    problems = [*parsed.problems, *left_out, *missing_programs, *impossible(document), *idle_keys(document)]
    writer = NetplanWriter()
    source = scratch / "etc/netplan/50-edge.yaml"
    source.parent.mkdir(parents=True, mode=0o700)
    source.touch(mode=0o600)
    source.write_text(writer.text(Value({"network": (document.position, document)}, document.position)))
    command = [str(system.path(GENERATE)), f"--root-dir={scratch}"]
    # netplan gives each file its mode and group, so that systemd-networkd can read it, but the umask counts too.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, umask=0o022)
    if done.returncode != 0:
        raise netplan_problem(done.stderr, writer)
    for text in re.findall(r"^Error: (Conflicting default route.*)", done.stderr, re.MULTILINE):
        problems.append(Problem(text, where="network-config", hint="give each route a `metric` of its own"))
    run = scratch / "run"
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_symlink() or path.is_file())
    needed = {name: program_of(name) for name in names if not UNUSED.fullmatch(name)}
    absent = sorted({program for program in needed.values() if program and not system.path(program).exists()})
    problems += [missing_program(program, "network-config") for program in absent]
    kept = [name for name, program in needed.items() if program not in absent]
    match_physical_only(run, kept)
    return RenderedNetwork(run, tuple(kept), physical_interfaces(document), tuple(problems))


def program_of(name: str) -> str | None:
    """The program that a file of the generator is for, None if it needs none. Raises `Problem` for other renderers."""
    for known, program in KNOWN:
        if known.fullmatch(name):
            return program
    hint = "this system has systemd-networkd only"
    raise Problem(f"needs {name}, which nothing here reads", where="network-config", hint=hint)


def as_version_2(value: Value) -> tuple[Value, list[Problem]]:
    """The configuration as version 2, and what of it does not count. Patterns that are names become `match`.

    Raises `Problem`.
    """
    version = value.get("version")
    number = str(version.data) if version else None
    config = value.get("config")
    if not value.data or (config is not None and config.data == "disabled"):  # cloud-init's way to say nothing
        return Value({}, value.position), []
    if number == "1":
        return convert_version_1(value)
    if number != "2":
        where = version.position if version else value.position
        raise Problem("is neither version 1 nor 2", where=str(where), hint="begin with `version: 2`")
    ethernets = value.get("ethernets")
    if ethernets is None or not isinstance(ethernets.data, dict):
        return value, []
    entries: dict[str, tuple[Position, Value]] = {}
    for index, (name, (position, entry)) in enumerate(ethernets.data.items()):
        if GLOB.search(name) and isinstance(entry.data, dict) and "match" not in entry.data:
            # networkd takes the first file that fits: those of patterns come last.
            match = Value({"name": (position, Value(name.removeprefix("~ "), position))}, position)
            entries[f"~{index}"] = (position, Value({"match": (position, match), **entry.data}, entry.position))
        else:
            entries[name] = (position, entry)
    place = value.data["ethernets"][0]
    return Value({**value.data, "ethernets": (place, Value(entries, ethernets.position))}, value.position), []


def without_missing(value: Value, system: System) -> tuple[Value, list[Problem]]:
    """The configuration without Wi-Fi if this image has no program for it, and the problem that says so."""
    program = "/usr/sbin/wpa_supplicant"
    if value.get("wifis") is None or system.path(program).exists():
        return value, []
    position = value.data["wifis"][0]
    rest = {name: entry for name, entry in value.data.items() if name != "wifis"}
    return Value(rest, value.position), [missing_program(program, str(position))]


def impossible(value: Value) -> list[Problem]:
    """A problem for each name that systemd-networkd does not take. It would ignore the interface without a word."""
    found: list[tuple[str, Position, bool]] = []
    for section in SECTIONS:
        entries: Any = getattr(value.get(section), "data", None)
        for name, (position, entry) in (entries if isinstance(entries, dict) else {}).items():
            if section not in PHYSICAL:
                found.append((name, position, True))
            elif entry.get("match") is None and (entry.data is None or isinstance(entry.data, dict)):
                found.append((name, position, False))
            elif isinstance(new := getattr(entry.get("set-name"), "data", None), str):
                found.append((new, entry.data["set-name"][0], True))
    return [
        Problem(f"no interface can be called {quoted(name)}: {why}", where=str(position), hint="give it another name")
        for name, position, made in found
        if not (GLOB.search(name) and not made) and (why := name_problem(name, made=made))
    ]


def idle_keys(value: Value) -> list[Problem]:
    """A problem for each address and route of a bond's member, which systemd-networkd ignores."""
    bonds: Any = getattr(value.get("bonds"), "data", None)
    listed = [entry.get("interfaces") for _, entry in bonds.values()] if isinstance(bonds, dict) else []
    lists = [names.data for names in listed if names is not None and isinstance(names.data, tuple)]
    members = {member.data for names in lists for member in names if isinstance(member.data, str)}
    problems = []
    for section in SECTIONS:
        entries: Any = getattr(value.get(section), "data", None)
        for name, (_, entry) in (entries if isinstance(entries, dict) else {}).items():
            for key in ("addresses", "routes") if name in members and isinstance(entry.data, dict) else ():
                if key in entry.data:
                    message = f"`{key}` of {quoted(name)} have no effect: it is a member of a bond"
                    problems.append(Problem(message, where=str(entry.data[key][0]), hint="write them for the bond"))
    return problems


def missing_program(program: str, where: str) -> Problem:
    """The problem of a configuration that needs a program that is not in the image."""
    package = PACKAGES[program]
    hint = f"build the image with `packages+: [{package}]`"
    return Problem(f"needs {program}, which this image does not have", where=where, hint=hint)


def netplan_problem(text: str, writer: NetplanWriter) -> Problem:
    """What netplan reports, at the position in the seed. Never quotes a line: it may hold a password."""
    text = re.sub(r"(invalid tunnel key) '.*'", r"\1", text)  # which may be the private key of WireGuard
    match = re.search(r"^\S+\.yaml(?::(\d+):\d+)?: (?:Error in network definition: )?(.*)$", text, re.MULTILINE)
    if match:
        position = writer.position(int(match[1])) if match[1] else None
        return Problem(match[2][:LONGEST], where=str(position or "network-config"))
    match = re.search(r"^ERROR: (.*)$", text, re.MULTILINE)
    hint = (
        None if match else "netplan gives no reason: look for an entry without a value, such as a route without `via`"
    )
    return Problem(match[1][:LONGEST] if match else "netplan can't render it", where="network-config", hint=hint)


def match_physical_only(run: Path, names: list[str]) -> None:
    """Let a pattern match physical interfaces only, not those of pods and of Kubernetes' own network."""
    for name in names:
        path = run / name
        if name.endswith(".network"):
            text = path.read_text()
            if re.search(r"^Name=.*[*?\[]", text, re.MULTILINE):
                path.write_text(text.replace("[Match]\n", "[Match]\nKind=!*\n", 1))


def physical_interfaces(value: Value) -> tuple[tuple[str, str | None, str | None], ...]:
    """Which interfaces must exist without being created."""
    made: list[tuple[str, str | None, str | None]] = []
    for section in PHYSICAL:
        entries: Any = getattr(value.get(section), "data", None)
        for name, (_, entry) in (entries if isinstance(entries, dict) else {}).items():
            if not isinstance(entry.data, dict) and entry.data is not None:  # `renderer: networkd` of all of them
                continue
            match = entry.get("match")
            mac, pattern = (match.get("macaddress"), match.get("name")) if match else (None, None)
            wanted = (pattern.data if pattern else None) if match else name
            made.append((name, wanted, str(mac.data).lower() if mac else None))
    return tuple(made)
