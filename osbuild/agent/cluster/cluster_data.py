"""The cluster's state follows the system's: what an update calls, and nothing of it is loaded before it is needed.

`refuse_version`: before anything is written, may this node get that release of Kubernetes? `prepare_reboot`: before the
switch: cordon, drain, snapshot. `reconcile_data`: at every boot: a snapshot for what is newer, a restore for what is
older; `mark_recorded`: what it said is written down. `rejoin`: after a good boot, in whichever slot: uncordon.
`rollback_loss`: what a rollback would lose, to be shown before it.
"""

import os
from collections.abc import Callable
from typing import Any

from osbuild.agent.cluster import version_record
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import versions
from osbuild.agent.system import System


def refuse_version(system: System, wanted: str) -> str | None:
    """Why this node must not get an image with `wanted`, as a bundle's `[meta.edge] kubernetes` has it; None if it may.

    Neither older than what runs or what the datastore has seen, nor another distribution, nor more than one minor
    version on.
    """
    last = version_record.read_record(system)
    try:
        known = [versions.running_version(system), last.release if last else None]
    except Problem as problem:
        return str(problem)
    return next((reason for release in known if (reason := versions.refuse_version(release, wanted))), None)


def prepare_reboot(system: System, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Have the cluster ready for this node's reboot into another slot. `say` is told of progress.

    At most `deadline` seconds are spent waiting for pods. A cluster that does not answer holds up nothing: an update
    may be what mends it. Raises `Problem` where the datastore can't be snapshotted; then the node is as it was before.
    Whoever calls it must call `rejoin` if there is no switch after all.
    """
    from osbuild.agent.cluster import membership

    return membership.prepare_reboot(system, deadline, say)


def reconcile_data(system: System) -> dict[str, Any] | None:
    """Bring the data of Kubernetes to the release of this slot, before anything of Kubernetes runs.

    Before a newer release gets at the data, a snapshot is taken, unless there is one already. An older one gets the
    newest snapshot that it can use, if and only if the newer release has changed the datastore in the meantime: rows or
    tables. What can't be done is said under `problem`, and Kubernetes runs on what there is. Returns what was done,
    None where that was nothing; what is `restored` at every boot until `mark_recorded`. Raises `OSError` where a
    restore got stuck halfway.
    """
    release = versions.running_version(system)
    if release is None:
        return None
    last = version_record.read_record(system)
    noted = any(
        os.path.lexists(system.path(name)) for name in (version_record.RESTORE_NOTE, version_record.RESTORE_DONE)
    )
    if last and last.release == release and not noted:
        return None  # as nearly always: nothing else is loaded then
    from osbuild.agent.cluster.migration import migrate_data

    return migrate_data(system, release)


def mark_recorded(system: System) -> None:
    """What `reconcile_data` said is written down. Raises `OSError`."""
    from osbuild.agent.cluster import restore

    restore.mark_recorded(system)


def rollback_loss(system: System, wanted: str | None = None) -> dict[str, Any] | None:
    """What a rollback to `wanted` would take from the cluster, by default to what ran before; None for nothing.

    Else which snapshot comes back, and what is lost; `problem` where there is none. Raises `Problem`.
    """
    from osbuild.agent.cluster import migration

    return migration.rollback_loss(system, wanted)


def rejoin(system: System, patience: float = 60) -> dict[str, Any]:
    """Undo what `prepare_reboot` did: uncordon the node if it was us who cordoned it, and remove snapshots that are too
    many.

    Asks for `patience` seconds. Raises nothing: `problem` says why the node may still be cordoned, so that it must be
    called again, as `edge-kubernetes-uncordon.service` does after every boot.
    """
    from osbuild.agent.cluster import membership

    return membership.rejoin(system, patience)
