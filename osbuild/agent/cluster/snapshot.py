"""Snapshots of the cluster's data: taken before another release of Kubernetes gets at it, few, and of bounded size.

One is a folder `REVISION-VERSION`, since revisions only rise, and a clock may be wrong. It appears whole or not at all.

In it is what a release changes and what only fits together: the datastore, and K3s' keys for encrypting it at rest.
Authorities and keys (`pki/`, K3s' `tls/`) are not: no release changes those of a cluster, and certificates that a newer
one has renewed are good for the older one, while older ones might have ended.
"""

import datetime
import json
import shutil
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent import state_files
from osbuild.agent.errors import FREE, Problem
from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.shared.files import file_system_space, make_folder, sync_path, write_file
from osbuild.shared.locks import lock_path
from osbuild.shared.sizes import format_bytes

DATA = "/var/lib/kubernetes"
FOLDER = f"{DATA}/snapshots"
METADATA_FILE = "snapshot.json"
DATABASE = "state.db"
# Below DATA. `server/token` is what K3s' documentation ("Backup and Restore") wants kept with a datastore.
FILES = ("server/cred/encryption-config.json", "server/cred/encryption-state.json", "server/token")
SPARE_BYTES = (
    128 * 2**20
)  # bytes that must stay free in /var: the node itself needs some, and its health check wants 64 MiB
METADATA_TYPES = {"release": str, "revision": int, "schema": str, "taken": str, "reason": str}  # of the fields of FACTS
DEFAULTS = {"snapshots": 3, "snapshot_space": 512 * 2**20}  # the profile's, where an image says nothing


@dataclass(frozen=True)
class Snapshot:
    """`revision` and `schema` are the datastore's, `release` is what wrote it.

    `taken` is a time (ISO 8601, UTC) by the node's clock, `reason` one of `update`, `boot`, `replaced` and `asked`,
    `size` counts bytes.
    """

    path: Path
    release: KubernetesVersion
    revision: int
    schema: str
    taken: str
    reason: str
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def database(self) -> Path:
        return self.path / DATABASE


def list_snapshots(system: System) -> list[Snapshot]:
    """Every whole snapshot, the newest first."""
    found = []
    for path in system.path(FOLDER).glob("[0-9]*"):
        facts = state_files.read_object(System(path), METADATA_FILE, METADATA_TYPES, list(METADATA_TYPES))
        try:
            release = KubernetesVersion.parse(facts["release"])
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(
                Snapshot(path, release, facts["revision"], facts["schema"], facts["taken"], facts["reason"], size)
            )
        except (KeyError, Problem, OSError):
            continue
    return sorted(found, key=lambda one: (one.revision, one.name), reverse=True)


def find_snapshot(system: System, name: str) -> Snapshot | None:
    return next((snapshot for snapshot in list_snapshots(system) if snapshot.name == name), None)


def find_usable(system: System, release: KubernetesVersion) -> Snapshot | None:
    """The newest whole snapshot that `release` can go on with; None if there is none.

    One of an older release is as good as what an update would find. One that a restore has put aside is not: it is of a
    boot that failed, or that somebody turned away from.
    """
    for snapshot in list_snapshots(system):
        if snapshot.release.distribution != release.distribution or snapshot.release.numbers > release.numbers:
            continue
        if snapshot.reason != "replaced":
            try:
                datastore.verify_database(snapshot.database)
                return snapshot
            except Problem as problem:
                print(f"snapshot {snapshot.name} can't be used: {problem}", file=sys.stderr)
    return None


def snapshot_limits(system: System) -> tuple[int, int]:
    """How many snapshots are kept, and how many bytes they may have."""
    found = DEFAULTS | (system.image().get("update") or {})
    return int(found["snapshots"]), int(found["snapshot_space"])


def rotate_snapshots(system: System, spared: Collection[str] = ()) -> list[str]:
    """Remove the oldest beyond the profile's limits, and what a power cut left; returns the names.

    The newest and those named in `spared` stay.
    """
    if not system.path(FOLDER).exists():
        return []
    with snapshot_lock(system):
        return remove_oldest(system, spared)


def snapshot_lock(system: System) -> AbstractContextManager[None]:
    """One process at a time: what another is just making is no scrap. Raises `OSError`."""
    folder = system.path(FOLDER)
    make_folder(folder, 0o700)
    return lock_path(folder)


def remove_oldest(system: System, spared: Collection[str], *, room: int = 0) -> list[str]:
    """See `rotate_snapshots`. With `room` in bytes, one more snapshot of that size will fit then."""
    count, space = snapshot_limits(system)
    for scrap in system.path(FOLDER).glob(".*"):
        shutil.rmtree(scrap, ignore_errors=True)
    kept = list_snapshots(system)
    gone = []
    for old in reversed(kept[1:]):
        full = len(kept) + bool(room) > count or sum(snapshot.size for snapshot in kept) + room > space
        if full and old.name not in spared:
            remove_snapshot(old)
            kept.remove(old)
            gone.append(old.name)
    return gone


def remove_snapshot(old: Snapshot) -> None:
    """First out of the way, so that no half of it is ever taken for a snapshot."""
    aside = old.path.with_name(f".{old.name}")
    old.path.rename(aside)
    shutil.rmtree(aside)


def take_snapshot(
    system: System, release: KubernetesVersion, reason: str, spared: Collection[str] = ()
) -> Snapshot | None:
    """Snapshot the datastore that `release` has, running or not; None where there is none.

    Where one of the same revision is there already, that is it. Raises `Problem` where there is no room, where the
    datastore is damaged, and `OSError`.
    """
    source = datastore.find_database(system)
    if source is None:
        return None
    with snapshot_lock(system):
        return make_snapshot(system, source, release, reason, spared)


def make_snapshot(
    system: System, source: Path, release: KubernetesVersion, reason: str, spared: Collection[str]
) -> Snapshot | None:
    """See `take_snapshot`: of the datastore `source`."""
    now = datastore.read_state(source)
    path = system.path(f"{FOLDER}/{now.revision:012d}-{release.version}")
    if there := find_snapshot(system, path.name):
        datastore.verify_database(there.database)
        return there
    make_room(system, datastore.database_size(source), spared)
    scratch = path.with_name(f".{path.name}")
    scratch.mkdir(mode=0o700)
    try:
        copied = copy_contents(system, scratch, source)
        metadata = {"release": str(release), "revision": copied.revision, "schema": copied.schema, "reason": reason}
        metadata["taken"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_file(scratch / METADATA_FILE, json.dumps(metadata).encode() + b"\n", 0o600)
        # It may have been written to since: the copy's own revision is what counts.
        path = path.with_name(f"{copied.revision:012d}-{release.version}")
        if not path.exists():
            scratch.rename(path)
            sync_path(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return find_snapshot(system, path.name)


def make_room(system: System, size: int, spared: Collection[str]) -> None:
    """Have room for a snapshot of `size` bytes, older ones making way. Raises `Problem` where there is none."""
    remove_oldest(system, spared, room=size)
    space = snapshot_limits(system)[1]
    if size > space:
        limit = f"`update.snapshot_space` of the profile is {format_bytes(space)}"
        message = f"the datastore has {format_bytes(size)}, and {limit}"
        raise Problem(message, where=datastore.FILE, hint="give it more, or remove objects that nobody needs")
    require_space(system.path(FOLDER), size)


def require_space(folder: Path, size: int) -> None:
    """Raise `Problem` unless the file system of `folder` has room for `size` bytes."""
    space = file_system_space(folder)
    if space is not None and space.free < size + SPARE_BYTES:
        needed = f"{format_bytes(size)} and {format_bytes(SPARE_BYTES)} to spare are needed"
        message = f"{needed}, {format_bytes(space.free)} are free"
        raise Problem(message, where=str(folder), hint=FREE)


def copy_contents(system: System, folder: Path, source: Path) -> datastore.DatastoreState:
    """Copy what a snapshot holds into `folder`, all of it on the disk."""
    database = folder / DATABASE
    datastore.copy_database(source, database)
    datastore.verify_database(database)
    for name in FILES:
        file = system.path(f"{DATA}/{name}")
        if file.exists():
            write_file(folder / "files" / name, file.read_bytes(), 0o600)
    for made in [path for path in (folder, *folder.rglob("*")) if path.is_dir()]:
        sync_path(made)
    return datastore.read_state(database, alone=True)
