"""What an update asks of Kubernetes on this node. A node without it has no cluster, and nothing is asked."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from osbuild.agent.system import System
from osbuild.agent.update.boots import kubernetes


class Cluster(Protocol):
    """See `osbuild.agent.kubernetes.follow`."""

    def refusal(self, system: System, wanted: str) -> str | None:
        """Why this node can't go to the Kubernetes `wanted`; None if it can."""

    def leave(self, system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
        """Make the node ready to go down, within `deadline` seconds: cordon, drain, snapshot. What history keeps."""

    def cost(self, system: System, wanted: str | None = None) -> dict[str, Any] | None:
        """What going back to the Kubernetes `wanted` would lose; None for nothing."""

    def reconcile(self, system: System) -> dict[str, Any] | None:
        """Before anything of Kubernetes runs: let its data follow the image. What was done; None for nothing."""

    def kept(self, system: System) -> None:
        """What `reconcile` said is written down: it need not say so again."""

    def arrive(self, system: System) -> dict[str, Any]:
        """Undo what `leave` did, and remove snapshots that are too many. What history keeps."""


def cluster(system: System) -> Cluster | None:
    """Kubernetes on this node; None where the image has none. It is loaded only here: imports are what takes time."""
    if not kubernetes(system):
        return None
    return cast(Cluster, importlib.import_module("osbuild.agent.kubernetes.follow"))
