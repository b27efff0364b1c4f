"""The cluster's data follows the system's slots: stamps, snapshots, restores. SQLite is the real one."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.boot.systemd_boot import SystemdBootLoader
from osbuild.agent.cluster import cluster_data, migration, restore, snapshot, version_record
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore, versions
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.agent.update import after_boot, history
from osbuild.agent.update.context import UpdateContext
from tests.support.kine import start_kine

OLD, NEW = "v1.35.4", "v1.36.3"
CONFIG = "/registry/configmaps/default"


def runs(root: Path, version: str, *, role: str = "server", **update: Any) -> System:
    """The device with that version of Kubernetes in the running slot."""
    image = {"kubernetes": {"role": role, "distribution": "upstream", "version": version}}
    path = root / "usr/lib/edge-osbuild/image.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(image | ({"update": update} if update else {})))
    return System(root)


def boots(root: Path, version: str, **rest: Any) -> tuple[System, dict[str, Any] | None]:
    """The same, and what is done before Kubernetes starts, and written down."""
    system = runs(root, version, **rest)
    outcome = cluster_data.reconcile_data(system)
    if outcome and "restored" in outcome:
        after_boot.record_cluster_result(UpdateContext(system, SystemdBootLoader(), cluster_data), outcome)
    return system, outcome


def database(root: Path) -> Path:
    return root / datastore.FILE.lstrip("/")


def put(root: Path, **objects: str) -> None:
    """The API server writes some config maps."""
    with start_kine(database(root)) as kine:
        for name, value in objects.items():
            kine.put(f"{CONFIG}/{name}", value.encode())


def objects(path: Path) -> dict[str, str]:
    """All that a cluster answers with."""
    with start_kine(path) as kine:
        return {name.removeprefix(f"{CONFIG}/"): value.decode() for name, value in kine.objects().items()}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A server that has run the old version, with an object in its cluster."""
    assert boots(tmp_path, OLD)[1] == {"from": None, "to": f"upstream {OLD}"}
    put(tmp_path, first="1")
    return tmp_path


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Another process that writes all the time."""
    program = Path(__file__).parents[2] / "support/kine.py"
    with subprocess.Popen([sys.executable, program, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout and writer.stdout.readline() == "writing\n"
        try:
            yield
            assert writer.poll() is None, "the writer was held up"
        finally:
            writer.kill()


def test_a_snapshot_of_a_busy_datastore_is_complete_and_consistent(tmp_path: Path) -> None:
    system = runs(tmp_path, OLD)
    last = 0
    with busy(database(tmp_path)):
        for _ in range(5):
            while datastore.read_state(database(tmp_path)).revision < last + 50:
                pass
            snapshot_taken = snapshot.take_snapshot(system, KubernetesVersion("upstream", OLD), "update")
            assert snapshot_taken
            last = snapshot_taken.revision
            with sqlite3.connect(snapshot_taken.database) as copy:
                assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert copy.execute("SELECT MAX(id) FROM kine").fetchone() == (snapshot_taken.revision,)
                pairs = copy.execute(
                    "SELECT COUNT(*) FROM kine AS l JOIN kine AS r ON r.id = l.id + 1 AND r.value = l.value "
                    "WHERE l.name LIKE '%left%' AND r.name = replace(l.name, 'left', 'right')"
                ).fetchone()[0]
                assert pairs == copy.execute("SELECT COUNT(*) FROM kine WHERE name LIKE '%left%'").fetchone()[0] > 0
            assert {path.name for path in snapshot_taken.path.iterdir()} == {snapshot.METADATA_FILE, snapshot.DATABASE}


def test_a_snapshot_contains_changes_of_the_write_ahead_log(node: Path) -> None:
    with start_kine(database(node)) as kine:  # running: its log is not in the database yet
        kine.put(f"{CONFIG}/second", b"2")
        before = database(node).read_bytes()
        snapshot_taken = snapshot.take_snapshot(runs(node, OLD), KubernetesVersion("upstream", OLD), "update")
        assert database(node).read_bytes() == before
    assert snapshot_taken and objects(snapshot_taken.database) == {"first": "1", "second": "2"}


def test_an_ordinary_boot_changes_nothing(node: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in node.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert boots(node, OLD)[1] is None
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not snapshot.list_snapshots(System(node))


def test_a_snapshot_is_taken_right_before_a_newer_version_starts(node: Path) -> None:
    snapshot.take_snapshot(runs(node, OLD), KubernetesVersion("upstream", OLD), "update")
    put(node, late="written between the snapshot and the reboot")
    _, outcome = boots(node, NEW)
    assert outcome and outcome["from"] == f"upstream {OLD}"
    newest, before = snapshot.list_snapshots(System(node))
    assert (newest.name, newest.reason, before.reason) == (outcome["snapshot"], "boot", "update")
    assert newest.kubernetes == KubernetesVersion("upstream", OLD)
    assert objects(newest.database).keys() == {"first", "late"}
    assert boots(node, NEW)[1] is None


def test_no_second_snapshot_is_taken_without_changes(node: Path) -> None:
    snapshot_taken = snapshot.take_snapshot(runs(node, OLD), KubernetesVersion("upstream", OLD), "update")
    _, outcome = boots(node, NEW)
    assert snapshot_taken and outcome and outcome["snapshot"] == snapshot_taken.name
    assert [one.reason for one in snapshot.list_snapshots(System(node))] == ["update"]


def test_a_rollback_restores_a_changed_datastore_and_reports_lost_changes(node: Path) -> None:
    put(node, changed="before", doomed="x")
    boots(node, NEW)
    put(node, changed="after", fresh="y")
    with start_kine(database(node)) as kine:
        kine.delete(f"{CONFIG}/doomed")
        for name in ("/registry/leases/kube-node-lease/n", "/registry/events/default/e"):
            kine.put(name)
        last = kine.revision
        kine.compact(last)
    system, outcome = boots(node, OLD)
    assert outcome is not None
    lost = outcome["restored"]
    assert lost["lost"] == {
        "created": ["configmaps/default/fresh"],
        "changed": ["configmaps/default/changed"],
        "deleted": ["configmaps/default/doomed"],
    }
    assert lost["counts"] == {"created": 1, "changed": 1, "deleted": 1}
    assert objects(database(node)) == {"first": "1", "changed": "before", "doomed": "x"}
    with start_kine(database(node)) as kine:  # nobody who watched the newer one may take up where it was
        assert kine.compacted == kine.revision > last
        assert kine.put(f"{CONFIG}/next") == kine.revision > last + 1
    replaced = snapshot.find_snapshot(system, lost["replaced"])
    assert replaced and objects(replaced.database)["fresh"] == "y"
    assert boots(node, OLD)[1] is None


def test_a_restore_keeps_the_certificate_authorities_on_the_disk(node: Path) -> None:
    """K3s refuses to start where its files are newer than what the datastore has of them."""
    key = "/bootstrap/2bb80d537b1d"
    with start_kine(database(node)) as kine:
        kine.put(key, b"the authorities of then")
    boots(node, NEW)
    with start_kine(database(node)) as kine:
        kine.put(key, b"authorities that were issued again")
        kine.put(f"{CONFIG}/fresh")
    _, outcome = boots(node, OLD)
    assert outcome and outcome["restored"]["lost"] == {
        "created": ["configmaps/default/fresh"], "changed": [], "deleted": [],
    }  # fmt: skip
    with start_kine(database(node)) as kine:
        assert key not in kine.objects(), "K3s stores what is on the disk"
        assert kine.put(key, b"again") == kine.revision == kine.compacted + 1
    assert objects(database(node)) == {"first": "1", key: "again"}


def test_a_rollback_restores_nothing_without_changes(node: Path) -> None:
    boots(node, NEW)
    with start_kine(database(node)):
        pass  # its kine starts, and its API server never does
    before = datastore.read_state(database(node))
    _, outcome = boots(node, OLD)
    assert outcome and "restored" not in outcome and outcome["kept"] == f"upstream {NEW} has not changed the datastore"
    assert datastore.read_state(database(node)) == before
    assert boots(node, OLD)[1] is None


def test_new_tables_are_changes_too(node: Path) -> None:
    boots(node, NEW)
    with start_kine(database(node)) as kine:
        kine.database.execute("CREATE INDEX kine_of_the_future ON kine (lease)")
    assert "restored" in (boots(node, OLD)[1] or {})
    with start_kine(database(node)) as kine:
        assert not kine.database.execute("SELECT 1 FROM sqlite_master WHERE name LIKE '%future'").fetchall()


def test_a_rollback_between_patch_versions_keeps_the_data(node: Path) -> None:
    boots(node, "v1.35.5")
    put(node, later="2")
    _, outcome = boots(node, OLD)
    assert outcome == {"from": "upstream v1.35.5", "to": f"upstream {OLD}"}
    assert objects(database(node)) == {"first": "1", "later": "2"}


def test_a_second_update_and_rollback_restores_the_second_snapshot(node: Path) -> None:
    for number in ("a", "b", "c"):
        put(node, **{number: "kept"})
        boots(node, NEW)
        put(node, **{f"{number}-lost": "x"})
        boots(node, OLD)
    assert objects(database(node)) == {"first": "1", "a": "kept", "b": "kept", "c": "kept"}


def test_a_damaged_datastore_is_restored_and_a_damaged_snapshot_is_not_used(node: Path) -> None:
    boots(node, NEW)
    put(node, second="2")
    (older,) = snapshot.list_snapshots(System(node))
    newer = older.path.with_name(f"{older.revision + 1:012d}-{OLD}")
    shutil.copytree(older.path, newer)
    metadata = json.loads((newer / snapshot.METADATA_FILE).read_text())
    (newer / snapshot.METADATA_FILE).write_text(json.dumps(metadata | {"revision": older.revision + 1}))
    for broken in (newer / snapshot.DATABASE, database(node)):
        with broken.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 8192)
    _, outcome = boots(node, OLD)
    assert outcome is not None
    assert outcome["restored"]["snapshot"] == older.name
    assert outcome["restored"]["lost"] is None
    assert "unknown" in outcome["restored"]["problem"] and "not stored" in outcome["restored"]["problem"]
    assert objects(database(node)) == {"first": "1"}


def test_without_a_snapshot_the_old_version_uses_the_existing_data_and_reports_it(node: Path) -> None:
    boots(node, NEW)
    put(node, second="2")
    shutil.rmtree(node / snapshot.FOLDER.lstrip("/"))
    snapshot.take_snapshot(
        System(node), KubernetesVersion("upstream", OLD), "replaced"
    )  # of a boot that somebody turned away from
    put(node, third="3")
    _, outcome = boots(node, OLD)
    assert outcome and "no snapshot that upstream v1.35.4 can use" in outcome["problem"]
    assert objects(database(node)) == {"first": "1", "second": "2", "third": "3"}


def test_a_lost_datastore_is_restored(node: Path) -> None:
    boots(node, NEW)
    database(node).unlink()
    assert "restored" in (boots(node, OLD)[1] or {})
    assert objects(database(node)) == {"first": "1"}


def cut(root: Path, version: str, at: int) -> bool:
    """Boot in a process of its own that ends at its operation `at` on files; False if it came to its end before that.

    Operations are those that Python's audit events name: opened, renamed, removed, made, and SQLite's connections.
    """
    kinds = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "sqlite3.connect"}
    process = os.fork()
    if not process:
        steps = 0

        def watch(event: str, arguments: Any) -> None:
            nonlocal steps
            if event not in kinds or not str(arguments[0]).startswith((str(root), f"file://{root}")):
                return
            steps += 1
            if steps == at:
                os._exit(1)

        sys.addaudithook(watch)
        try:
            boots(root, version)
            os._exit(0)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1


@pytest.mark.parametrize("direction", ["back", "on"])
def test_power_cuts_do_not_change_the_result(
    node: Path, tmp_path_factory: pytest.TempPathFactory, direction: str
) -> None:
    if direction == "back":
        key = node / "var/lib/kubernetes/server/cred/encryption-config.json"
        key.parent.mkdir()
        key.write_text("old")
        boots(node, NEW)
        key.write_text("new")
    with start_kine(database(node)) as kine:
        kine.put(f"{CONFIG}/second", b"2")
        kine.database.execute("BEGIN")  # held, so that a log stays beside the database when it is copied
        log = {path.name: path.read_bytes() for path in database(node).parent.iterdir() if "state.db" in path.name}
    for name, content in log.items():
        (database(node).parent / name).write_bytes(content)
    goal, expected = (OLD, {"first": "1"}) if direction == "back" else (NEW, {"first": "1", "second": "2"})
    steps = 0
    while True:
        steps += 1
        copy = tmp_path_factory.mktemp("cut") / "root"
        shutil.copytree(node, copy)
        was_cut = cut(copy, goal, steps)
        system, _ = boots(copy, goal)
        assert objects(database(copy)) == expected, steps
        assert sorted(path.name for path in database(copy).parent.iterdir()) == ["state.db"], steps
        record = version_record.read_record(system)
        assert record and record.kubernetes.version == goal
        assert not (
            system.path(version_record.RESTORE_PLAN).exists() or system.path(version_record.RESTORE_DONE).exists()
        )
        lost = [row["cluster"]["restored"]["lost"]["created"] for row in history.read_history(system)]
        assert lost == ([["configmaps/default/second"]] if direction == "back" else []), "said once, whenever it is cut"
        assert [one.reason for one in snapshot.list_snapshots(system)] == (
            ["replaced", "boot"] if direction == "back" else ["boot"]
        )
        if direction == "back":
            assert (copy / key.relative_to(node)).read_text() == "old"
        shutil.rmtree(copy.parent)
        if not was_cut:
            break
    assert steps > (20 if direction == "back" else 8)


def test_a_restore_that_the_newer_version_finishes_gives_the_data_to_that_version(
    node: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    boots(node, NEW)
    put(node, second="2")
    for at in count(1):
        copy = tmp_path_factory.mktemp("cut") / "root"
        shutil.copytree(node, copy)
        cut(copy, OLD, at)
        if System(copy).path(version_record.RESTORE_PLAN).exists():
            break
    system, outcome = boots(copy, NEW)
    assert outcome and "restored" in outcome
    record = version_record.read_record(system)
    assert record and (record.kubernetes.version, str(record.previous)) == (NEW, f"upstream {OLD}")
    assert boots(copy, NEW)[1] is None


def test_the_write_ahead_log_of_a_lost_datastore_is_not_applied_to_the_restored_one(node: Path) -> None:
    boots(node, NEW)
    with start_kine(database(node)) as kine:
        kine.put(f"{CONFIG}/second", b"2")
        log = {path: path.read_bytes() for path in datastore.sqlite_files(database(node)) if path.exists()}
    assert [path.name for path in log] == ["state.db-wal", "state.db-shm"]
    for path, content in log.items():
        path.write_bytes(content)
    database(node).unlink()
    assert "restored" in (boots(node, OLD)[1] or {})
    assert objects(database(node)) == {"first": "1"}


def test_a_prepared_datastore_needs_neither_space_nor_the_snapshot(
    node: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    boots(node, NEW)
    put(node, second="2")
    seen = 0
    for at in count(1):
        copy = tmp_path_factory.mktemp("cut") / "root"
        shutil.copytree(node, copy)
        if not cut(copy, OLD, at):
            break
        if restore.ready_path(database(copy)).exists():
            seen += 1
            for one in snapshot.list_snapshots(System(copy)):
                one.database.write_bytes(b"")
            assert "restored" in (boots(copy, OLD)[1] or {})
            assert objects(database(copy)) == {"first": "1"}
    assert seen > 1


def test_snapshots_are_limited_and_the_one_for_a_rollback_is_kept(node: Path) -> None:
    system, outcome = boots(node, NEW, snapshots=2, snapshot_space=10 * 2**20)
    assert outcome is not None
    for number in range(4):
        put(node, filler=str(number) * 2**20)
        snapshot.take_snapshot(system, KubernetesVersion("upstream", NEW), "asked", migration.needed_snapshots(system))
        snapshot.rotate_snapshots(system, migration.needed_snapshots(system))
        snapshots = snapshot.list_snapshots(system)
        assert [one.name for one in snapshots][1:] == [outcome["snapshot"]]
        assert snapshots[0].revision == datastore.read_state(database(node)).revision
    space = 50 * 2**20
    system = runs(node, NEW, snapshots=99, snapshot_space=space)
    for number in range(5):
        put(node, filler=str(number) * 2**20)
        snapshot.take_snapshot(system, KubernetesVersion("upstream", NEW), "asked")
        sizes = [one.size for one in snapshot.list_snapshots(system)]
        assert sum(sizes) <= space
    assert 2 <= len(sizes) < 7  # of seven that were taken
    assert not list(system.path(snapshot.FOLDER).glob(".*"))


def test_an_unfinished_snapshot_is_not_removed_by_another_process(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, fill = runs(node, OLD), snapshot.copy_contents
    other = threading.Thread(target=snapshot.rotate_snapshots, args=(system,))

    def slow(*arguments: Any) -> datastore.DatastoreState:
        result = fill(*arguments)
        other.start()
        other.join(0.5)
        return result

    monkeypatch.setattr(snapshot, "copy_contents", slow)
    snapshot_taken = snapshot.take_snapshot(system, KubernetesVersion("upstream", OLD), "update")
    other.join(30)
    assert snapshot_taken and objects(snapshot_taken.database) == {"first": "1"}


def test_a_snapshot_without_space_is_refused_before_anything_is_written(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(node, big="x" * 2**21)
    with pytest.raises(Problem, match=r"the datastore has \d MiB, but `update.snapshot_space` of the profile is 1 MiB"):
        snapshot.take_snapshot(runs(node, OLD, snapshot_space=2**20), KubernetesVersion("upstream", OLD), "update")
    monkeypatch.setattr(snapshot, "SPARE_BYTES", 2**60)  # no disk has that
    with pytest.raises(Problem, match="are free"):
        snapshot.take_snapshot(runs(node, OLD), KubernetesVersion("upstream", OLD), "update")
    assert not list(System(node).path(snapshot.FOLDER).iterdir())


def test_a_full_file_system_keeps_the_newer_data(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots(node, NEW)
    put(node, second="2")
    with monkeypatch.context() as full:
        full.setattr(snapshot, "SPARE_BYTES", 2**60)
        _, outcome = boots(node, OLD)
    assert outcome and "are free; upstream v1.35.4 uses the data of upstream v1.36.3" in outcome["problem"]
    put(node, third="3")
    assert boots(node, OLD)[1] is None, "restored over what has been written since"
    assert objects(database(node)) == {"first": "1", "second": "2", "third": "3"}


def test_a_disk_failure_during_a_restore_stops_kubernetes_until_it_is_finished(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots(node, NEW)
    put(node, second="2")
    with monkeypatch.context() as broken:
        broken.setattr(version_record, "store_record", lambda *_: os.fsync(2**20))
        for _ in range(2):
            with pytest.raises(OSError, match="Bad file descriptor"):
                boots(node, OLD)
    assert "restored" in (boots(node, OLD)[1] or {})
    assert objects(database(node)) == {"first": "1"}


def test_the_changes_that_a_rollback_loses_are_known_in_advance(node: Path) -> None:
    system, _ = boots(node, NEW)
    with start_kine(database(node)) as kine:
        kine.put(f"{CONFIG}/second")
        loss = cluster_data.rollback_loss(system)
        assert loss and loss["lost"]["created"] == ["configmaps/default/second"]
    assert cluster_data.rollback_loss(system, "upstream v1.36.0") is None
    assert objects(database(node)).keys() == {"first", "second"}


def test_the_kubelet_state_of_another_version_is_removed(tmp_path: Path) -> None:
    boots(tmp_path, OLD, role="agent")
    state = tmp_path / migration.KUBELET_STATE[0].lstrip("/")
    state.parent.mkdir(parents=True)
    for version, stays in ((OLD, True), ("v1.35.9", True), (NEW, False), (OLD, False)):
        state.write_text("{}")
        _, outcome = boots(tmp_path, version, role="agent")
        assert state.exists() == stays
        assert not outcome or "problem" not in outcome


def test_a_node_without_kubernetes_has_no_cluster_data(tmp_path: Path) -> None:
    system, outcome = boots(tmp_path, OLD, role="none")
    assert outcome is None
    assert cluster_data.refuse_version(system, f"upstream {NEW}") is None
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("old", "wanted", "reason"),
    [
        ("upstream v1.35.4", "upstream v1.36.3", None),
        ("upstream v1.35.4", "upstream v1.35.4", None),
        ("k3s v1.35.0+k3s1", "k3s v1.35.0+k3s2", None),
        ("k3s v1.35.0+k3s3", "k3s v1.35.1+k3s1", None),
        ("upstream v1.36.3", "upstream v1.35.4", "older than v1.36.3"),
        ("upstream v1.36.3", "upstream v1.36.2", "older than v1.36.3"),
        ("k3s v1.35.0+k3s2", "k3s v1.35.0+k3s1", "older than"),
        ("upstream v1.9.0", "upstream v1.10.0", None),
        (
            "upstream v1.34.0",
            "upstream v1.36.0",
            "more than one minor version newer than v1.34.0; update to v1.35 first",
        ),
        ("upstream v1.35.4", "upstream v2.0.0", "more than one minor version"),
        ("upstream v1.35.4", "k3s v1.36.0+k3s1", "distribution k3s"),
        ("upstream v1.35.4", "", "no Kubernetes"),
        ("upstream v1.35.4", "upstream latest", "is not a Kubernetes version"),
    ],
)
def test_a_kubernetes_version_is_refused_with_the_reason(old: str, wanted: str, reason: str | None) -> None:
    refusal = versions.refuse_version(KubernetesVersion.parse(old), wanted)
    assert refusal is None if reason is None else reason in str(refusal)


def test_a_version_that_the_datastore_has_seen_counts_like_the_running_one(node: Path) -> None:
    boots(node, NEW)
    system = runs(node, OLD)  # a boot that could not reconcile
    assert "older than v1.36.3" in str(cluster_data.refuse_version(system, "upstream v1.36.0"))


def test_every_file_of_a_snapshot_is_readable_by_root_only(node: Path) -> None:
    boots(node, NEW)
    (taken,) = snapshot.list_snapshots(System(node))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (taken.path.parent, taken.path, *taken.path.rglob("*")))
