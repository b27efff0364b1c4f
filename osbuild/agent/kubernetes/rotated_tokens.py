"""Join tokens that `edge-agent kubernetes token rotate` has put in place of those of the profile.

A rotated token is valid as long as the seed still has the token that it replaced. A new token in the seed wins.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from osbuild.agent.kubernetes.k3s_password import read_password_file
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.system import System
from osbuild.shared.files import write_file
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.records import parse_record


class TokenName(StrEnum):
    """The key of a token in the settings."""

    CLUSTER = "token"
    AGENTS = "agent_token"


@dataclass(frozen=True)
class RotatedToken:
    """A token that replaces the configured one with the SHA-256 `replaces` (hex).

    Without `value`, it is the one in K3s' password file.
    """

    replaces: str
    value: str | None = None


@dataclass(frozen=True)
class RotatedTokens:
    token: RotatedToken | None = None
    agent_token: RotatedToken | None = None


def read_rotated(root: Path) -> RotatedTokens:
    """The rotated tokens of this server node. A damaged file counts as empty."""
    path = Paths(root).rotated_tokens
    try:
        return parse_record(RotatedTokens, System(root).json(f"/{path.relative_to(root)}"))
    except ValueError:
        return RotatedTokens()


def store_rotated(root: Path, name: TokenName, rotated: RotatedToken) -> None:
    """Store a rotated token. Raises `OSError`."""
    tokens = asdict(read_rotated(root)) | {name.value: asdict(rotated)}
    write_file(Paths(root).rotated_tokens, (json.dumps(tokens) + "\n").encode(), 0o600)


def digest_token(text: str | None) -> str:
    """The SHA-256 (hex) of a configured token, or of nothing."""
    return hashlib.sha256((text or "").encode()).hexdigest()


def apply_rotated(root: Path, settings: NodeSettings) -> NodeSettings:
    """The settings of a server node with its rotated tokens."""
    rotated = read_rotated(root)
    for name, token in ((TokenName.CLUSTER, rotated.token), (TokenName.AGENTS, rotated.agent_token)):
        configured = getattr(settings, name)
        if token and token.replaces == digest_token(configured):
            value = token.value or read_password_file(Paths(root)) or configured
            settings = (
                replace(settings, token=value) if name is TokenName.CLUSTER else replace(settings, agent_token=value)
            )
    return settings
