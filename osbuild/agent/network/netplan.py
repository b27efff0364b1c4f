"""Runs netplan's generator (netplan-generate(8)), which writes files for systemd-networkd, udev and wpa_supplicant."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.network.document import NetplanWriter, NetworkDocument, Position, Value
from osbuild.agent.network.version1 import convert_version_1
from osbuild.agent.system import System
from osbuild.shared.interface_names import name_problem
from osbuild.shared.quoting import quoted

GENERATE = "/usr/libexec/netplan/generate"
# (file that the generator writes, program that it needs). Other files are for renderers that no image has.
KNOWN = (
    (re.compile(r"systemd/network/10-netplan-[^/]+\.(link|netdev|network)"), None),
    (re.compile(r"netplan/wpa-[^/]+\.conf"), "/usr/sbin/wpa_supplicant"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-wpa-[^/]+\.service"), "/usr/sbin/wpa_supplicant"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-regdom\.service"), "/usr/sbin/iw"),
    (re.compile(r"systemd/system/([^/]+\.wants/)?netplan-sriov-[^/]+\.service"), "/usr/sbin/netplan"),
    (re.compile(r"udev/rules\.d/99-netplan-[^/]+\.rules"), None),
)
# Files for NetworkManager, Open vSwitch and systemd-networkd-wait-online, which do not run here.
UNUSED = re.compile(r"udev/rules\.d/90-netplan\.rules|.*netplan-ovs-cleanup\.service|.*wait-online\.service\.d/.*")
PACKAGES = {"/usr/sbin/wpa_supplicant": "wpasupplicant", "/usr/sbin/iw": "iw", "/usr/sbin/netplan": "netplan.io"}
LONGEST = 300  # characters of a message of netplan, which may quote long values
GLOB = re.compile(r"[*?\[]")
PHYSICAL = ("ethernets", "wifis")
SECTIONS = ("ethernets", "wifis", "bonds", "bridges", "vlans", "vrfs", "tunnels", "dummy-devices", "virtual-ethernets")


@dataclass(frozen=True)
class RenderedNetwork:
    """The files that netplan wrote below `folder` (which stands for /run), and the problems that remain."""

    folder: Path
    files: tuple[str, ...]
    physical: tuple[tuple[str, str | None, str | None], ...]
    """(label, name or pattern, MAC address) of each physical interface"""
    problems: tuple[Problem, ...]


def render_network(parsed: NetworkDocument, scratch: Path, system: System) -> RenderedNetwork:
    """Render a parsed network-config in the empty folder `scratch`. Raises `Problem`."""
    converted, without_effect = as_version_2(parsed.value)
    document, missing_programs = remove_wifi_if_unsupported(converted, system)
    problems = [*parsed.problems, *without_effect, *missing_programs]
    problems += [*invalid_names(document), *ignored_member_keys(document)]
    writer = NetplanWriter()
    source = scratch / "etc/netplan/50-edge.yaml"
    source.parent.mkdir(parents=True, mode=0o700)
    source.touch(mode=0o600)
    source.write_text(writer.text(Value({"network": (document.position, document)}, document.position)))
    command = [str(system.path(GENERATE)), f"--root-dir={scratch}"]
    # netplan sets modes and groups that let systemd-networkd read the files; a strict umask would remove these rights.
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, umask=0o022)
    if result.returncode != 0:
        raise netplan_problem(result.stderr, writer)
    for text in re.findall(r"^Error: (Conflicting default route.*)", result.stderr, re.MULTILINE):
        problems.append(Problem(text, where="network-config", hint="give each route a `metric` of its own"))
    run = scratch / "run"
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_symlink() or path.is_file())
    needed = {name: required_program(name) for name in names if not UNUSED.fullmatch(name)}
    absent = sorted({program for program in needed.values() if program and not system.path(program).exists()})
    problems += [missing_program(program, "network-config") for program in absent]
    usable = [name for name, program in needed.items() if program not in absent]
    match_physical_only(run, usable)
    return RenderedNetwork(run, tuple(usable), physical_interfaces(document), tuple(problems))


def required_program(name: str) -> str | None:
    """The program that reads a generated file, None if none is needed. Raises `Problem` for other renderers."""
    for known, program in KNOWN:
        if known.fullmatch(name):
            return program
    hint = "use `renderer: networkd`; the image has no other renderer"
    raise Problem(f"needs {name}, which no program of this image reads", where="network-config", hint=hint)


def as_version_2(value: Value) -> tuple[Value, list[Problem]]:
    """The configuration as version 2, and a problem for each entry without effect. Raises `Problem`.

    An interface whose name is a pattern gets a `match`.
    """
    version = value.get("version")
    number = str(version.data) if version else None
    config = value.get("config")
    if not value.data or (
        config is not None and config.data == "disabled"
    ):  # for cloud-init, this is an empty configuration
        return Value({}, value.position), []
    if number == "1":
        return convert_version_1(value)
    if number != "2":
        where = version.position if version else value.position
        raise Problem("has neither version 1 nor version 2", where=str(where), hint="begin with `version: 2`")
    ethernets = value.get("ethernets")
    if ethernets is None or not isinstance(ethernets.data, dict):
        return value, []
    entries: dict[str, tuple[Position, Value]] = {}
    for index, (name, (position, entry)) in enumerate(ethernets.data.items()):
        if GLOB.search(name) and isinstance(entry.data, dict) and "match" not in entry.data:
            # systemd-networkd uses the first matching file, so patterns get names that are sorted last.
            match = Value({"name": (position, Value(name.removeprefix("~ "), position))}, position)
            entries[f"~{index}"] = (position, Value({"match": (position, match), **entry.data}, entry.position))
        else:
            entries[name] = (position, entry)
    position = value.data["ethernets"][0]
    return Value({**value.data, "ethernets": (position, Value(entries, ethernets.position))}, value.position), []


def remove_wifi_if_unsupported(value: Value, system: System) -> tuple[Value, list[Problem]]:
    """The configuration without `wifis` and a problem, if this image has no wpa_supplicant."""
    program = "/usr/sbin/wpa_supplicant"
    if value.get("wifis") is None or system.path(program).exists():
        return value, []
    position = value.data["wifis"][0]
    rest = {name: entry for name, entry in value.data.items() if name != "wifis"}
    return Value(rest, value.position), [missing_program(program, str(position))]


def invalid_names(value: Value) -> list[Problem]:
    """A problem for each interface name that systemd-networkd would silently ignore."""
    names: list[tuple[str, Position, bool]] = []  # (name, position, whether the interface gets the name)
    for section in SECTIONS:
        entries: Any = getattr(value.get(section), "data", None)
        for name, (position, entry) in (entries if isinstance(entries, dict) else {}).items():
            if section not in PHYSICAL:
                names.append((name, position, True))
            elif entry.get("match") is None and (entry.data is None or isinstance(entry.data, dict)):
                names.append((name, position, False))
            elif isinstance(new := getattr(entry.get("set-name"), "data", None), str):
                names.append((new, entry.data["set-name"][0], True))
    return [
        Problem(
            f"{quoted(name)} is not a valid interface name: {reason}", where=str(position), hint="give it another name"
        )
        for name, position, assigned in names
        if not (GLOB.search(name) and not assigned) and (reason := name_problem(name, assigned=assigned))
    ]


def ignored_member_keys(value: Value) -> list[Problem]:
    """A problem for the addresses and routes of each member of a bond, which systemd-networkd ignores."""
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
    """The problem for a configuration that needs a program that the image does not have."""
    package = PACKAGES[program]
    hint = f"build the image with `packages+: [{package}]`"
    return Problem(f"needs {program}, which this image does not have", where=where, hint=hint)


def netplan_problem(text: str, writer: NetplanWriter) -> Problem:
    """The error of netplan with its position in the seed. It quotes no line, because a line may contain a password."""
    text = re.sub(r"(invalid tunnel key) '.*'", r"\1", text)  # the key may be the private key of WireGuard
    match = re.search(r"^\S+\.yaml(?::(\d+):\d+)?: (?:Error in network definition: )?(.*)$", text, re.MULTILINE)
    if match:
        position = writer.position(int(match[1])) if match[1] else None
        return Problem(match[2][:LONGEST], where=str(position or "network-config"))
    match = re.search(r"^ERROR: (.*)$", text, re.MULTILINE)
    hint = (
        None if match else "netplan gives no reason: look for an entry without a value, such as a route without `via`"
    )
    return Problem(match[1][:LONGEST] if match else "netplan cannot render it", where="network-config", hint=hint)


def match_physical_only(run: Path, names: list[str]) -> None:
    """Restrict patterns to physical interfaces, so that they do not match interfaces of pods."""
    for name in names:
        path = run / name
        if name.endswith(".network"):
            text = path.read_text()
            if re.search(r"^Name=.*[*?\[]", text, re.MULTILINE):
                path.write_text(text.replace("[Match]\n", "[Match]\nKind=!*\n", 1))


def physical_interfaces(value: Value) -> tuple[tuple[str, str | None, str | None], ...]:
    """(label, name or pattern, MAC address) of each interface that must exist because it is hardware."""
    interfaces: list[tuple[str, str | None, str | None]] = []
    for section in PHYSICAL:
        entries: Any = getattr(value.get(section), "data", None)
        for name, (_, entry) in (entries if isinstance(entries, dict) else {}).items():
            if not isinstance(entry.data, dict) and entry.data is not None:  # `renderer: networkd` for the section
                continue
            match = entry.get("match")
            mac, pattern = (match.get("macaddress"), match.get("name")) if match else (None, None)
            name_pattern = (pattern.data if pattern else None) if match else name
            interfaces.append((name, name_pattern, str(mac.data).lower() if mac else None))
    return tuple(interfaces)
