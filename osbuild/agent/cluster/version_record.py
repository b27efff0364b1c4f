"""Records which Kubernetes version uses the cluster data, and the state of the datastore when it first did.

The record is written before this version starts, so later changes of the datastore were made by this version.
"""

import json
from dataclasses import dataclass

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.shared.files import write_file

FILE = "/var/lib/kubernetes/stamp.json"
RESTORE_PLAN = "/var/lib/kubernetes/restore.json"  # exists while a restore is not finished; see `restore`
# The details of a finished restore, until they are recorded.
RESTORE_DONE = "/var/lib/kubernetes/restored.json"


@dataclass(frozen=True)
class VersionRecord:
    """This Kubernetes uses the data since this `revision` and `schema` of the datastore; `previous` used them before.

    `revision` is None if there was no datastore: on an agent node, or before the first start.
    """

    kubernetes: KubernetesVersion
    revision: int | None = None
    schema: str | None = None
    previous: KubernetesVersion | None = None


def read_record(system: System) -> VersionRecord | None:
    """The record of this node; None before the first start or if the file is damaged."""
    row = state_files.read_object(
        system, FILE, {**dict.fromkeys(("release", "schema", "previous"), str), "revision": int}
    )
    if not row:
        return None
    try:
        previous = row.get("previous")
        return VersionRecord(
            KubernetesVersion.parse(row["release"]),
            row["revision"],
            row["schema"],
            KubernetesVersion.parse(previous) if previous else None,
        )
    except (KeyError, AttributeError, Problem) as error:
        state_files.report_damage(system.path(FILE), str(error))
        return None


def store_record(system: System, record: VersionRecord) -> None:
    """Store the record. Raises `OSError`."""
    system.path(FILE).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    row = {
        "release": str(record.kubernetes),
        "revision": record.revision,
        "schema": record.schema,
        "previous": record.previous and str(record.previous),
    }
    write_file(system.path(FILE), json.dumps(row).encode() + b"\n", 0o600)
