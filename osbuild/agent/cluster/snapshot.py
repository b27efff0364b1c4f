"""Snapshots of the cluster data, taken before another Kubernetes version uses the data. Number and size are limited.

A snapshot is a folder `REVISION-VERSION`: revisions always increase, while a clock may be wrong. It is created
atomically. It contains what a Kubernetes version may change and what belongs together: the datastore, and K3s' keys for
encryption at rest. Certificate authorities and keys (`pki/`, K3s' `tls/`) are not part of it: no version changes those
of a cluster, certificates renewed by a newer version are valid for an older one, and old ones may have expired.
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
from osbuild.shared.locks import hold_file_lock
from osbuild.shared.sizes import format_bytes

DATA = "/var/lib/kubernetes"
FOLDER = f"{DATA}/snapshots"
METADATA_FILE = "snapshot.json"
DATABASE = "state.db"
# Below DATA. K3s' documentation ("Backup and Restore") says that `server/token` belongs to the datastore.
FILES = ("server/cred/encryption-config.json", "server/cred/encryption-state.json", "server/token")
# Bytes that must stay free in /var, for the node itself and for the health check, which requires 64 MiB.
SPARE_BYTES = 128 * 2**20
METADATA_TYPES = {"release": str, "revision": int, "schema": str, "taken": str, "reason": str}
SNAPSHOTS, SNAPSHOT_SPACE = 3, 512 * 2**20  # number and bytes, used if the image does not set them


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a datastore with its `revision` and `schema`, written by the version `kubernetes`.

    `taken` is a time of the node's clock (ISO 8601, UTC), `reason` is `update`, `boot`, `replaced` or `asked` (taken
    manually), `size` is in bytes.
    """

    path: Path
    kubernetes: KubernetesVersion
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
    """All complete snapshots, the newest first."""
    snapshots = []
    for path in system.path(FOLDER).glob("[0-9]*"):
        metadata = state_files.read_object(System(path), METADATA_FILE, METADATA_TYPES, list(METADATA_TYPES))
        try:
            kubernetes = KubernetesVersion.parse(metadata["release"])
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            snapshots.append(
                Snapshot(
                    path,
                    kubernetes,
                    metadata["revision"],
                    metadata["schema"],
                    metadata["taken"],
                    metadata["reason"],
                    size,
                )
            )
        except (KeyError, Problem, OSError):
            continue
    return sorted(snapshots, key=lambda snapshot: (snapshot.revision, snapshot.name), reverse=True)


def find_snapshot(system: System, name: str) -> Snapshot | None:
    return next((snapshot for snapshot in list_snapshots(system) if snapshot.name == name), None)


def find_usable(system: System, kubernetes: KubernetesVersion) -> Snapshot | None:
    """The newest undamaged snapshot that `kubernetes` can use; None if there is none."""
    # A snapshot of an older version is as good as the data that an update finds. `replaced` ones are not used: they are
    # from a version that failed or was rolled back.
    for snapshot in list_snapshots(system):
        if (
            snapshot.kubernetes.distribution != kubernetes.distribution
            or snapshot.kubernetes.numbers > kubernetes.numbers
        ):
            continue
        if snapshot.reason != "replaced":
            try:
                datastore.verify_database(snapshot.database)
                return snapshot
            except Problem as problem:
                print(f"snapshot {snapshot.name} cannot be used: {problem}", file=sys.stderr)
    return None


def snapshot_limits(system: System) -> tuple[int, int]:
    """(largest number of snapshots, largest total size in bytes)."""
    limits = system.image().update
    count = SNAPSHOTS if limits.snapshots is None else limits.snapshots
    return count, SNAPSHOT_SPACE if limits.snapshot_space is None else limits.snapshot_space


def rotate_snapshots(system: System, needed: Collection[str] = ()) -> list[str]:
    """Remove the oldest snapshots beyond the limits of the profile, and incomplete ones. Returns the removed names.

    The newest snapshot and those named in `needed` are kept. Raises `OSError`.
    """
    if not system.path(FOLDER).exists():
        return []
    with snapshot_lock(system):
        return remove_oldest(system, needed)


def snapshot_lock(system: System) -> AbstractContextManager[None]:
    """Lock the snapshots, so that an unfinished snapshot of another process is not removed. Raises `OSError`."""
    folder = system.path(FOLDER)
    make_folder(folder, 0o700)
    return hold_file_lock(folder)


def remove_oldest(system: System, needed: Collection[str], *, reserve: int = 0) -> list[str]:
    """See `rotate_snapshots`. With `reserve`, also make space for one more snapshot of this size in bytes."""
    count, space = snapshot_limits(system)
    for incomplete in system.path(FOLDER).glob(".*"):
        shutil.rmtree(incomplete, ignore_errors=True)
    remaining = list_snapshots(system)
    removed = []
    for old in reversed(remaining[1:]):
        full = len(remaining) + bool(reserve) > count or sum(snapshot.size for snapshot in remaining) + reserve > space
        if full and old.name not in needed:
            remove_snapshot(old)
            remaining.remove(old)
            removed.append(old.name)
    return removed


def remove_snapshot(old: Snapshot) -> None:
    """Remove a snapshot. It is renamed first, so that a power cut leaves no incomplete snapshot. Raises `OSError`."""
    aside = old.path.with_name(f".{old.name}")
    old.path.rename(aside)
    shutil.rmtree(aside)


def take_snapshot(
    system: System, kubernetes: KubernetesVersion, reason: str, needed: Collection[str] = ()
) -> Snapshot | None:
    """Take a snapshot of the datastore of `kubernetes`, which may be in use; None if there is no datastore.

    An existing snapshot of the same revision is returned instead. Raises `Problem` if there is no space or the
    datastore is damaged, and `OSError`.
    """
    source = datastore.find_database(system)
    if source is None:
        return None
    with snapshot_lock(system):
        return snapshot_database(system, source, kubernetes, reason, needed)


def snapshot_database(
    system: System, source: Path, kubernetes: KubernetesVersion, reason: str, needed: Collection[str]
) -> Snapshot | None:
    """See `take_snapshot`. The caller holds the lock; `source` is the datastore."""
    state = datastore.read_state(source)
    path = system.path(f"{FOLDER}/{state.revision:012d}-{kubernetes.version}")
    if existing := find_snapshot(system, path.name):
        datastore.verify_database(existing.database)
        return existing
    make_space(system, datastore.database_size(source), needed)
    scratch = path.with_name(f".{path.name}")
    scratch.mkdir(mode=0o700)
    try:
        copied_state = copy_contents(system, scratch, source)
        metadata = {
            "release": str(kubernetes),
            "revision": copied_state.revision,
            "schema": copied_state.schema,
            "reason": reason,
        }
        metadata["taken"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_file(scratch / METADATA_FILE, json.dumps(metadata).encode() + b"\n", 0o600)
        # The datastore may have changed since `state` was read, so the revision of the copy is used.
        path = path.with_name(f"{copied_state.revision:012d}-{kubernetes.version}")
        if not path.exists():
            scratch.rename(path)
            sync_path(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return find_snapshot(system, path.name)


def make_space(system: System, size: int, needed: Collection[str]) -> None:
    """Remove old snapshots until one of `size` bytes fits. Raises `Problem` if it does not fit."""
    remove_oldest(system, needed, reserve=size)
    space = snapshot_limits(system)[1]
    if size > space:
        limit = f"`update.snapshot_space` of the profile is {format_bytes(space)}"
        message = f"the datastore has {format_bytes(size)}, but {limit}"
        raise Problem(message, where=datastore.FILE, hint="increase it, or delete objects that are not needed")
    require_space(system.path(FOLDER), size)


def require_space(folder: Path, size: int) -> None:
    """Raise `Problem` unless the file system of `folder` has space for `size` bytes and the reserve."""
    space = file_system_space(folder)
    if space is not None and space.free < size + SPARE_BYTES:
        needed = f"{format_bytes(size)} and {format_bytes(SPARE_BYTES)} to spare are needed"
        message = f"{needed}, but {format_bytes(space.free)} are free"
        raise Problem(message, where=str(folder), hint=FREE)


def copy_contents(system: System, folder: Path, source: Path) -> datastore.DatastoreState:
    """Copy datastore and files into `folder` and flush them to the disk. Returns the state of the copied datastore."""
    database = folder / DATABASE
    datastore.copy_database(source, database)
    datastore.verify_database(database)
    for name in FILES:
        file = system.path(f"{DATA}/{name}")
        if file.exists():
            write_file(folder / "files" / name, file.read_bytes(), 0o600)
    for subfolder in [path for path in (folder, *folder.rglob("*")) if path.is_dir()]:
        sync_path(subfolder)
    return datastore.read_state(database, alone=True)
