"""Which release of Kubernetes last had this node's data, and how the datastore was when that release first got it.

The stamp is written before anything of that release runs. So what the datastore has beyond it, the release has written.
"""

import json
from dataclasses import asdict, dataclass

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.shared.files import write_file

FILE = "/var/lib/kubernetes/stamp.json"
RESTORE_NOTE = "/var/lib/kubernetes/restore.json"  # there while a restore is not finished: see `restore`
RESTORE_DONE = (
    "/var/lib/kubernetes/restored.json"  # what a restore that is finished has cost, until that is written down
)


@dataclass(frozen=True)
class VersionRecord:
    """`release` has the data since the datastore's `revision` and `schema`, `previous` had it before.

    `revision` is None where there was no datastore: on an agent, or before the first start.
    """

    release: KubernetesVersion
    revision: int | None = None
    schema: str | None = None
    previous: KubernetesVersion | None = None


def read_record(system: System) -> VersionRecord | None:
    """The stamp of this node; None before the first start, or where the file can't be understood."""
    found = state_files.read_object(
        system, FILE, {**dict.fromkeys(("release", "schema", "previous"), str), "revision": int}
    )
    if not found:
        return None
    try:
        previous = found.get("previous")
        return VersionRecord(
            KubernetesVersion.parse(found["release"]),
            found["revision"],
            found["schema"],
            KubernetesVersion.parse(previous) if previous else None,
        )
    except (KeyError, AttributeError, Problem) as error:
        state_files.report_damage(system.path(FILE), str(error))
        return None


def store_record(system: System, stamp: VersionRecord) -> None:
    """Make `stamp` this node's. Raises `OSError`."""
    system.path(FILE).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    plain = asdict(stamp) | {"release": str(stamp.release), "previous": stamp.previous and str(stamp.previous)}
    write_file(system.path(FILE), json.dumps(plain).encode() + b"\n", 0o600)
