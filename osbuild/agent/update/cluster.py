"""What an update asks of Kubernetes on this node. A node without it has no cluster, and nothing is asked."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from osbuild.agent.system import System
from osbuild.agent.update.boot_records import running_kubernetes


class Cluster(Protocol):
    """See `osbuild.agent.cluster.cluster_data`."""

    def refuse_version(self, system: System, wanted: str) -> str | None:
        """Why this node can't go to the Kubernetes `wanted`; None if it can."""

    def prepare_reboot(self, system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
        """Make the node ready to go down, within `deadline` seconds: cordon, drain, snapshot. What history keeps."""

    def rollback_loss(self, system: System, wanted: str | None = None) -> dict[str, Any] | None:
        """What going back to the Kubernetes `wanted` would lose; None for nothing."""

    def reconcile_data(self, system: System) -> dict[str, Any] | None:
        """Before anything of Kubernetes runs: let its data follow the image. What was done; None for nothing."""

    def mark_recorded(self, system: System) -> None:
        """What `reconcile_data` said is written down: it need not say so again."""

    def rejoin(self, system: System) -> dict[str, Any]:
        """Undo what `prepare_reboot` did, and remove snapshots that are too many. What history keeps."""


def load_cluster(system: System) -> Cluster | None:
    """Kubernetes on this node; None where the image has none. It is loaded only here: imports are what takes time."""
    if not running_kubernetes(system):
        return None
    return cast(Cluster, importlib.import_module("osbuild.agent.cluster.cluster_data"))
