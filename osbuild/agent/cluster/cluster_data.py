"""The interface between updates and the cluster (`osbuild.agent.update.cluster.Cluster`).

`refuse_version` is called before an installation, `rollback_loss` before a rollback, `prepare_reboot` before a switch,
`reconcile_data` at every boot, `mark_recorded` after its result was recorded, and `rejoin` after the slot is good.
Other modules are imported only when needed, because imports take time at boot.
"""

import os
from collections.abc import Callable
from typing import Any

from osbuild.agent.cluster import version_record
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import versions
from osbuild.agent.system import System


def refuse_version(system: System, version: str) -> str | None:
    """Why this node must not get an image with the Kubernetes `version` (`[meta.edge] kubernetes`); None if it may.

    Refused are another distribution, a version that is older than the running one or one that the datastore has seen,
    and a version that is more than one minor version newer.
    """
    record = version_record.read_record(system)
    try:
        known_versions = [versions.running_version(system), record.kubernetes if record else None]
    except Problem as problem:
        return str(problem)
    return next((reason for known in known_versions if (reason := versions.refuse_version(known, version))), None)


def prepare_reboot(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Cordon and drain this node within `deadline` seconds, and take a snapshot. `say` reports progress.

    A cluster that does not answer is no reason to fail, because the update may repair it. Raises `Problem` if no
    snapshot can be taken, after undoing the rest. The caller must call `rejoin` if the switch fails afterwards.
    """
    from osbuild.agent.cluster import membership

    return membership.prepare_reboot(system, deadline, say)


def reconcile_data(system: System) -> dict[str, Any] | None:
    """Adapt the cluster data to the Kubernetes version of this slot, before Kubernetes starts.

    Returns what was done, or None; a `restored` snapshot is reported at every boot until `mark_recorded`. Failures are
    reported as `problem`, and Kubernetes uses the existing data. Raises `OSError` if a restore was interrupted halfway.
    """
    # A newer version gets the data after a snapshot was taken. An older version gets the newest snapshot that it can
    # use, but only if the newer version has changed rows or tables of the datastore.
    kubernetes = versions.running_version(system)
    if kubernetes is None:
        return None
    record = version_record.read_record(system)
    restore_recorded = any(
        os.path.lexists(system.path(name)) for name in (version_record.RESTORE_PLAN, version_record.RESTORE_DONE)
    )
    if record and record.kubernetes == kubernetes and not restore_recorded:
        return None  # the usual case, without further imports
    from osbuild.agent.cluster.migration import migrate_data

    return migrate_data(system, kubernetes)


def mark_recorded(system: System) -> None:
    """Confirm that the result of `reconcile_data` is recorded. Raises `OSError`."""
    from osbuild.agent.cluster import restore

    restore.mark_recorded(system)


def rollback_loss(system: System, version: str | None = None) -> dict[str, Any] | None:
    """What a rollback to the Kubernetes `version` (default: the previous one) would lose; None if nothing.

    Returns the snapshot that would be restored and the changes since then, or a `problem`. Raises `Problem`.
    """
    from osbuild.agent.cluster import migration

    return migration.rollback_loss(system, version)


def rejoin(system: System, patience: float = 60) -> dict[str, Any]:
    """Uncordon the node if an update has cordoned it, and remove excess snapshots. Retries for `patience` seconds.

    Raises nothing. `problem` in the result says why the node may still be cordoned; then
    edge-kubernetes-uncordon.service calls this again after the next boot.
    """
    from osbuild.agent.cluster import membership

    return membership.rejoin(system, patience)
