"""The Kubernetes settings of this node: those of the image, overridden by those of the seed."""

import json
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.rotated_tokens import apply_rotated
from osbuild.shared import cluster_ranges, files
from osbuild.shared.json_text import parse_json
from osbuild.shared.node_settings import (
    KUBERNETES_FILE,
    POD_SECURITY_LEVELS,
    KubernetesSeed,
    NodeSettings,
    unknown_settings,
)
from osbuild.shared.records import parse_record
from osbuild.shared.upstream_options import UNIT_BREAKS

IMAGE_FILE = "usr/lib/edge-osbuild/kubernetes.json"
SEED_FILE = KUBERNETES_FILE.lstrip("/")

FILE_HINT = "build the image again, or apply the seed again"
SETTINGS_HINT = "correct `kubernetes` in the profile or the settings of the seed"


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file. Raises `Problem`."""
    try:
        content = parse_json(files.read_file(path).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror}", where=str(path), hint=FILE_HINT) from error
    except ValueError as error:
        raise Problem(f"not JSON: {error}", where=str(path), hint=FILE_HINT) from error
    if not isinstance(content, dict):
        raise Problem("not a JSON object", where=str(path), hint=FILE_HINT)
    return content


def load_settings(root: Path) -> NodeSettings:
    """Read the settings of the system below `root`, with rotated tokens. Raises `Problem` if they are not valid."""
    settings = load_configured(root)
    return apply_rotated(root, settings) if settings.role == "server" else settings


def load_configured(root: Path) -> NodeSettings:
    """Read the settings of image and seed as they are. Raises `Problem` if they are not valid."""
    merged = {key: value for key, value in read_object(root / IMAGE_FILE).items() if value is not None}
    merged |= {key: value for key, value in read_object(root / SEED_FILE).items() if value is not None}
    try:
        settings = parse_record(NodeSettings, merged)
    except ValueError as error:
        raise Problem(str(error), where=SEED_FILE, hint=FILE_HINT) from error
    # Node names are lower case (RFC 1123 subdomains).
    name = settings.config.get("node-name") or socket.gethostname()
    settings = replace(settings, node_name=str(name).lower())
    check_settings(settings)
    return settings


def report_unknown(root: Path) -> None:
    """Report settings of the seed that this version does not know. They are kept in the file for later versions."""
    # A seed may also override what only images set.
    for problem in unknown_settings(read_object(root / SEED_FILE), KubernetesSeed, NodeSettings):
        print(f"edge-agent: {root / SEED_FILE}: {problem}", file=sys.stderr)


def check_settings(settings: NodeSettings) -> None:
    """Raise `Problem` if settings are invalid or contradict each other."""
    if settings.role not in ("server", "agent", "none"):
        raise Problem(f"role {settings.role!r} is not server, agent or none", hint=SETTINGS_HINT)
    if settings.role == "agent" and not (settings.server and settings.join_token):
        hint = "set both in the profile, the token by reference"
        raise Problem("an agent node needs `server` and `token`", hint=hint)
    if settings.role == "server" and settings.server and not settings.token:
        raise Problem("a server that joins another one needs `token`", hint="set it in the profile, by reference")
    if settings.pod_security not in POD_SECURITY_LEVELS:
        levels = ", ".join(POD_SECURITY_LEVELS)
        raise Problem(f"`pod_security` {settings.pod_security!r} is not one of: {levels}", hint=SETTINGS_HINT)
    if settings.role == "none":
        return
    try:
        cluster_ranges.check_ranges(settings.ranges)
    except cluster_ranges.RangeError as error:
        raise Problem(str(error), where=error.name, hint=f"{error.hint}; {SETTINGS_HINT}") from error


def write_text(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a file atomically and wait until it is on the disk. Raises `OSError`."""
    files.write_file(path, content.encode(), mode)


def write_json(path: Path, content: Any, mode: int = 0o644) -> None:
    """Replace a file with JSON, which is also valid YAML. Raises `OSError`."""
    write_text(path, json.dumps(content, indent=2) + "\n", mode)


def write_arguments(path: Path, arguments: Iterable[str]) -> None:
    """Write `ARGS=…` for EnvironmentFile= of a unit (systemd.exec(5)). Raises `Problem` and `OSError`."""
    # systemd splits the value at white space.
    values = list(arguments)
    if invalid := [value for value in values if not value or set(value) & UNIT_BREAKS]:
        raise Problem(
            f"argument {invalid[0]!r} is empty or contains a character that systemd would change",
            where=str(path),
            hint=SETTINGS_HINT,
        )
    write_text(path, f"ARGS={' '.join(values)}\n", 0o600)
