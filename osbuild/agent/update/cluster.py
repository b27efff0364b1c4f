"""The interface between an update and the cluster that the node belongs to. A node without Kubernetes has none."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from osbuild.agent.system import System
from osbuild.agent.update.boot_records import running_kubernetes


class Cluster(Protocol):
    """Implemented by the module `osbuild.agent.cluster.cluster_data`."""

    def refuse_version(self, system: System, version: str) -> str | None:
        """Why this node cannot change to the Kubernetes `version`; None if it can."""

    def prepare_reboot(self, system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
        """Cordon and drain the node and take a snapshot, within `deadline` seconds. Returns details for the history."""

    def rollback_loss(self, system: System, version: str | None = None) -> dict[str, Any] | None:
        """What a rollback to the Kubernetes `version` would lose; None if nothing."""

    def reconcile_data(self, system: System) -> dict[str, Any] | None:
        """Adapt the cluster data to the image, before Kubernetes starts. Returns what was done; None if nothing."""

    def mark_recorded(self, system: System) -> None:
        """Confirm that the result of `reconcile_data` is recorded, so that it is not reported again."""

    def rejoin(self, system: System) -> dict[str, Any]:
        """Uncordon the node and remove excess snapshots. Returns details for the history."""


def load_cluster(system: System) -> Cluster | None:
    """The cluster interface; None if the image has no Kubernetes. Imported on demand, because imports take time."""
    if not running_kubernetes(system):
        return None
    return cast(Cluster, importlib.import_module("osbuild.agent.cluster.cluster_data"))
