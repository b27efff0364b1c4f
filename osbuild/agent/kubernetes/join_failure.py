"""Why a node has not joined its cluster: stored for `edge-agent status` and `edge-agent explain`."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes.api import explain_failure
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json
from osbuild.agent.system import System
from osbuild.shared.records import parse_record


class FailureKind(StrEnum):
    """What has failed: the token, the authority that the token pins, the request of this node, or the connection."""

    TOKEN = "token"  # noqa: S105
    AUTHORITY = "authority"
    DENIED = "denied"
    SERVER = "server"


HINTS = {
    FailureKind.TOKEN: (
        "`edge-agent kubernetes token show` on a server prints the current token; `token create` there makes one for a "
        "single node. Put it into the seed of this node"
    ),
    FailureKind.AUTHORITY: (
        "check the address in `kubernetes.server`: it may be that of another cluster. If it is right, the cluster has "
        "a new authority: put the token that `edge-agent kubernetes token show` prints on a server into the seed"
    ),
    FailureKind.DENIED: "follow the server's reason; `kubectl get csr` on a server shows the request",
    FailureKind.SERVER: "check `kubernetes.server`, the network and the clock of this node; it goes on trying",
}


class JoinError(ValueError):
    """This node cannot join its cluster, for a reason that may be temporary."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class JoinFailure:
    """The last failure to join, of this boot. `server` is a URL."""

    kind: FailureKind
    message: str
    server: str

    @property
    def hint(self) -> str:
        """What to do next."""
        return HINTS[self.kind]

    def lines(self) -> list[str]:
        """The failure as text for people."""
        return [f"this node cannot join {self.server}: {self.message}", f"hint: {self.hint}"]


def describe_failure(error: Exception, server: str) -> JoinFailure:
    """The failure of an attempt to join the cluster of a server (URL)."""
    kind = error.kind if isinstance(error, JoinError) else FailureKind.SERVER
    return JoinFailure(kind, explain_failure(error) if isinstance(error, OSError) else str(error), server)


def record_failure(paths: Paths, failure: JoinFailure) -> bool:
    """Store the failure. Returns whether it is another one than before. Raises `OSError`."""
    if read_failure(paths.root) == failure:
        return False
    write_json(paths.join_failure, asdict(failure))
    return True


def clear_failure(paths: Paths) -> None:
    """Remove the stored failure, because the node has joined. Raises `OSError`."""
    paths.join_failure.unlink(missing_ok=True)


def read_failure(root: Path) -> JoinFailure | None:
    """The stored failure; None if there is none."""
    stored: dict[str, Any] = System(root).json(f"/{Paths(root).join_failure.relative_to(root)}")
    try:
        return parse_record(JoinFailure, stored)
    except ValueError:
        return None
