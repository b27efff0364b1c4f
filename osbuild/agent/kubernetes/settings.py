"""What this node is to be: the image's settings, overridden key by key by the seed's."""

import json
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.shared import cluster_ranges, files
from osbuild.shared.node_settings import KUBERNETES_FILE, KubernetesSeed, NodeSettings, unknown_settings
from osbuild.shared.records import parse_record

IMAGE_FILE = "usr/lib/edge-osbuild/kubernetes.json"
SEED_FILE = KUBERNETES_FILE.lstrip("/")

UNIT_BREAKS = frozenset(" \t\r\n\"'\\")  # systemd would split or change an argument with one of these
WRITTEN_HINT = "the image's is written by the build, the seed's by cloud-init: build or flash again"
GIVEN_HINT = "the profile's `kubernetes` and the seed's settings give it"


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file. Raises `Problem`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Problem(f"not JSON: {error}", where=str(path), hint=WRITTEN_HINT) from error
    if not isinstance(content, dict):
        raise Problem("not a JSON object", where=str(path), hint=WRITTEN_HINT)
    return content


def load_settings(root: Path) -> NodeSettings:
    """Read the settings of the system below `root`. Raises `Problem` where they can't be used."""
    merged = {key: value for key, value in read_object(root / IMAGE_FILE).items() if value is not None}
    merged |= {key: value for key, value in read_object(root / SEED_FILE).items() if value is not None}
    try:
        settings = parse_record(NodeSettings, merged)
    except ValueError as error:
        raise Problem(str(error), where=SEED_FILE, hint=WRITTEN_HINT) from error
    # Kubernetes' node names are lower case (RFC 1123 subdomains).
    name = settings.config.get("node-name") or socket.gethostname()
    settings = replace(settings, node_name=str(name).lower())
    check_settings(settings)
    return settings


def report_unknown(root: Path) -> None:
    """Name the settings of the seed that a later version has written; they stay in the file for that version."""
    for problem in unknown_settings(KubernetesSeed, read_object(root / SEED_FILE)):
        print(f"edge-agent: {root / SEED_FILE}: {problem}", file=sys.stderr)


def check_settings(settings: NodeSettings) -> None:
    """Raise `Problem` where settings contradict each other."""
    if settings.role not in ("server", "agent", "none"):
        raise Problem(f"role {settings.role!r} is none of server, agent, none", hint=GIVEN_HINT)
    if settings.role == "agent" and not (settings.server and settings.token):
        hint = "give both in the profile, the token by reference"
        raise Problem("an agent needs `server` and `token`", hint=hint)
    if settings.role == "none":
        return
    try:
        cluster_ranges.check_ranges(settings.ranges)
    except cluster_ranges.RangeError as error:
        raise Problem(str(error), where=error.name, hint=f"{error.hint}; {GIVEN_HINT}") from error


def write_text(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a file as a whole, on the disk when this returns: a part of them is on the data partition."""
    files.write_file(path, content.encode(), mode)


def write_json(path: Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON, which every program that reads YAML takes too."""
    write_text(path, json.dumps(content, indent=2) + "\n", mode)


def write_arguments(path: Path, words: Iterable[str]) -> None:
    """Write `ARGS=…` for a unit's EnvironmentFile= (systemd.exec(5)); systemd splits it at white space."""
    listed = list(words)
    if broken := [word for word in listed if not word or set(word) & UNIT_BREAKS]:
        raise Problem(
            f"argument {broken[0]!r} has a character that a unit can't pass on", where=str(path), hint=GIVEN_HINT
        )
    write_text(path, f"ARGS={' '.join(listed)}\n", 0o600)
