"""Stored files, damaged in every way: each is reported and renamed to NAME.damaged, and the agent continues."""

import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.cluster import cluster_data, restore, snapshot, snapshot_command, version_record
from osbuild.agent.cluster.version_record import VersionRecord
from osbuild.agent.commands import explain, rollback
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.agent.update import (
    boot_records,
    download,
    health_verdict,
    history,
    pending,
    rauc_journal,
    records,
    status,
    switch,
)
from osbuild.agent.update.after_boot import handle_boot
from osbuild.agent.update.commit import commit_update
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.progress import ConsoleProgress, ProgressEvent
from osbuild.shared import uboot_state
from osbuild.shared.uboot_environment import pack_environment
from osbuild.shared.uboot_state import UBootState
from tests.support import kine
from tests.support.devices import Device
from tests.support.mounted import mount_tmpfs

UPDATE = "var/lib/edge-osbuild/update"
CLUSTER = "var/lib/kubernetes"
RELEASE = KubernetesVersion("upstream", "v1.36.3")


@dataclass(frozen=True)
class StoredFile:
    """One file of the agent on the data partition."""

    name: str
    optional: bool = False  # whether any contents are valid


@pytest.fixture(autouse=True, scope="module")
def journal() -> Iterator[None]:
    """The journal of this host, which every report of a device without updates reads, is read once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rauc_journal, "recent_lines", cache(rauc_journal.recent_lines))
        yield


def make_device(folder: Path) -> Device:
    """A device with one of each file, in the middle of an update."""
    folder.mkdir(exist_ok=True)
    device = Device(folder)
    system = device.system
    handle_boot(device.context)
    commit_update(device.context)
    update = PendingUpdate(
        "1", UpdateKind.update, UpdateStage.installed, "a", "b", {"version": "1.0.0"}, {"version": "1.1.0"},
        "/b.raucb", "hash", since=records.current_time(), facts={"fetched": 1},
    )  # fmt: skip
    for step in device.loader.steps("b", "1.1.0"):
        step()
    pending.save_pending(system, update)
    history.append_event(system, history.UpdateEvent.installed, update, facts={"fetched": 1})
    health_verdict.store_failed(system, {"healthy": False, "checks": [{"name": "10-a", "ok": False, "output": "no"}]})
    records.save_object(system, download.METADATA_FILE, {"identity": "one", "mark": '"x"', "size": 99})
    download.download_path(system).write_bytes(b"abc")
    device.put(f"{UPDATE}/ended", "boot-0\n")
    database = device.root / CLUSTER / "server/db/state.db"
    database.parent.mkdir(parents=True)
    with kine.start_kine(database) as datastore:
        datastore.put("/registry/configmaps/default/x")
    version_record.store_record(system, VersionRecord(RELEASE, 1, "x", KubernetesVersion("upstream", "v1.35.4")))
    snapshot.take_snapshot(system, RELEASE, "asked")
    return device


def read_everything(device: Device) -> None:
    """Run all code that reads the files: a boot, a commit, every report, and an attempt at each change."""
    system, context = device.system, device.context
    records.load_object(system, download.METADATA_FILE, download.TYPES)
    assert handle_boot(context) == 0
    report = explain.collect_report(context)
    explain.page_lines(report)
    json.dumps(report)
    status.status_lines(status.update_status(context))
    [history.event_line(row) for row in history.read_history(system)]
    boot_records.last_boot_of(system, "a")
    download.downloaded_bytes(system)
    with suppress(Problem):  # refused with a message
        switch.switch_pending(context, reboot=False)
    with suppress(Problem):
        rollback.roll_back(context, reboot=False)
    with suppress(Problem):
        commit_update(context)
    records.discard_download(system)
    cluster_data.reconcile_data(system)
    cluster_data.refuse_version(system, "upstream v1.36.3")
    with suppress(Problem):
        cluster_data.rollback_loss(system)
    restore.unrecorded_restore(system)
    with redirect_stdout(io.StringIO()):
        snapshot_command.snapshot_lines(system, True)
        snapshot_command.snapshot_lines(system, False)
    snapshot.rotate_snapshots(system)


FILES = [
    StoredFile(f"{UPDATE}/pending.json"), StoredFile(f"{UPDATE}/history.jsonl"),
    StoredFile(f"{UPDATE}/boots.jsonl"),
    StoredFile(f"{UPDATE}/verdict.json"), StoredFile(f"{UPDATE}/floor"), StoredFile(f"{UPDATE}/download.json"),
    StoredFile(f"{UPDATE}/download.raucb", optional=True), StoredFile(f"{UPDATE}/ended", optional=True),
    StoredFile(f"{CLUSTER}/stamp.json"), StoredFile(f"{CLUSTER}/restore.json"), StoredFile(f"{CLUSTER}/restored.json"),
    StoredFile(f"{CLUSTER}/snapshots/*/snapshot.json"),
]  # fmt: skip


def directory(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def bound(path: Path) -> None:
    path.unlink()
    previous = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound_socket:
            bound_socket.bind(path.name)
    finally:
        os.chdir(previous)


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)


def types(path: Path) -> None:
    """Each field has the type of another."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else [
        json.loads(path.read_text())
    ]  # fmt: skip
    other = {str: {"x": [1]}, dict: "text", int: "text", bool: "text", list: 7, type(None): []}
    lines = [json.dumps({name: other[type(value)] for name, value in row.items()}) for row in rows]
    path.write_text("\n".join(lines) + "\n")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a block of zeros": lambda path: path.write_bytes(bytes(4096)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by one": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]),
    "half of it zeros": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].ljust(4096, b"\0")),
    "a list": lambda path: path.write_text("[]\n"),
    "a number": lambda path: path.write_text("7\n"),
    "text": lambda path: path.write_text('"text"\n'),
    "null": lambda path: path.write_text("null\n"),
    "an empty object": lambda path: path.write_text("{}\n"),
    "deep": lambda path: path.write_text("[" * 100_000 + "\n"),
    "digits": lambda path: path.write_text("1" * 5000 + "\n"),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "Latin-1": lambda path: path.write_bytes(path.read_bytes()[:-3] + b"\xe4\xff\n"),
    "half a character": lambda path: path.write_text('{"id": "\\ud800", "time": "\\udfff"}\n'),
    "noise": lambda path: path.write_bytes(os.urandom(4096)),
    "types": types, "a folder": directory, "a FIFO": fifo, "a loop of links": loop, "a socket": bound, "huge": huge,
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A device to copy. It is on a tmpfs, because hundreds of copies are made and flushed often."""
    with mount_tmpfs(tmp_path_factory.mktemp("memory") / "fs", 256 * 2**20) as folder:
        yield make_device(folder / "template").root


CASES = [(file, damage) for file in FILES for damage in DAMAGES if damage != "types" or ".json" in file.name]


@pytest.mark.parametrize(("file", "damage"), CASES, ids=lambda value: getattr(value, "name", value).rpartition("/")[2])
def test_a_damaged_file_is_reported_and_renamed_and_the_agent_continues(
    file: StoredFile, damage: str, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = template.with_name(f"device-{len(list(template.parent.iterdir()))}")
    shutil.copytree(template, tmp_path, symlinks=True)
    device = Device(tmp_path)
    name = file.name
    if name.endswith(("restore.json", "restored.json")):
        record: dict[str, Any] = {
            "snapshot": "none",
            "release": str(RELEASE),
            "revision": 1,
            "facts": {},
        }
        device.put(name, json.dumps(record if name.endswith("restore.json") else {"snapshot": "x"}) + "\n")
    [path] = tmp_path.glob(name)
    capsys.readouterr()
    DAMAGES[damage](path)
    read_everything(device)
    errors = capsys.readouterr().err
    lines = path.suffix == ".jsonl"
    valid_version = file.name.endswith("floor") and damage in ("a number", "cut", "cut by one")
    harmless = (
        file.optional
        or (path.name == "restored.json" and damage == "types")
        or damage == "an empty object"
        or (lines and damage == "empty")
        or valid_version
    )
    if not harmless:
        assert f"{path.name} is damaged: " in errors
        assert path.with_name(f"{path.name}.damaged").exists() or path.with_name(f"{path.name}.damaged").is_symlink()
    capsys.readouterr()
    read_everything(device)
    assert "is damaged" not in capsys.readouterr().err, "it is reported once"


def test_good_lines_of_a_damaged_history_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = make_device(tmp_path)
    path = device.root / UPDATE / "history.jsonl"
    good = history.read_history(device.system)
    path.write_bytes(b"\0\0\0\n" + path.read_bytes() + b'{"time": 5}\n{"event": "x", "unknown": [1]}\n{"event"')
    before = path.read_bytes()
    assert history.read_history(device.system) == [*good, {"event": "x", "unknown": [1]}]
    assert capsys.readouterr().err.count("is damaged") == 1
    assert history.read_history(device.system) == [*good, {"event": "x", "unknown": [1]}]
    assert path.with_name("history.jsonl.damaged").read_bytes() == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", [UPDATE, f"{CLUSTER}/snapshots", "var/lib/edge-osbuild"])
def test_a_file_in_place_of_a_folder_is_renamed(folder: str, tmp_path: Path) -> None:
    device = make_device(tmp_path)
    path = tmp_path / folder
    path.rename(tmp_path / "gone")
    path.write_bytes(b"not a folder")
    read_everything(device)
    history.append_event(device.system, history.UpdateEvent.cluster)
    snapshot.take_snapshot(device.system, RELEASE, "asked")
    assert path.is_dir()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b"not a folder"


@pytest.mark.parametrize("kind", ["uefi", "uboot"])
def test_damaged_names_on_the_esp_are_not_entries(kind: str, tmp_path: Path) -> None:
    device = Device(tmp_path, kind)
    before = [asdict(entry) for entry in device.loader.read_entries(device.system)]
    folder = tmp_path / "efi" / ("EFI/Linux" if kind == "uefi" else "")
    names = ["edge-9-b+3.efi", "edge-b+99999999999999999999999.efi", "edge-\ud7ff.efi", "edge-c.img", "edge-b.img"]
    for name in names:
        if not (folder / name).exists():
            (folder / name).mkdir()
    assert [asdict(entry) for entry in device.loader.read_entries(device.system)] == before
    handle_boot(device.context)
    status.status_lines(status.update_status(device.context))


def test_an_invalid_boot_state_of_u_boot_is_ignored() -> None:
    good = UBootState(3, ("b", "a"))
    for variables in (
        {"GENERATION": "-1"}, {"GENERATION": "zz"}, {"BOOT_ORDER": ""}, {"BOOT_ORDER": "A A"}, {"BOOT_ORDER": "1 ?"},
        {"BOOT_A_LEFT": "-1"}, {"BOOT_A_LEFT": "ffffffff"}, {"BOOT_A_DONE": "-5"}, {"BOOT_A_LEFT": " 1"},
        {"BOOT_A_LEFT": "0x1"}, {"BOOT_A_DONE": "1_0"}, {"BOOT_A_LEFT": "\u0663"},
    ):  # fmt: skip
        known = {"GENERATION": "9", "BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_A_DONE": "0",
                 "BOOT_B_LEFT": "3", "BOOT_B_DONE": "0"}  # fmt: skip
        damaged = uboot_state.decode_state(pack_environment({**known, **variables}, uboot_state.COPY_SIZE))
        assert damaged is None, variables
        assert uboot_state.newest_state([damaged, good]) == good
    for data in (b"", bytes(4096), b"\xff" * 4096, os.urandom(4096), good.encode()[:-1], good.encode()[:5]):
        assert uboot_state.decode_state(data) is None
    assert uboot_state.newest_state([None, None]) == UBootState()


def test_reports_of_damaged_files_can_always_be_printed(tmp_path: Path) -> None:
    system = System(tmp_path)
    report = ConsoleProgress(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    (tmp_path / UPDATE).mkdir(parents=True)
    text = '{"event": "\\ud800"}\n{"event": "\\ud83d\\ude00", "why": "x"}\n'
    (tmp_path / UPDATE / "history.jsonl").write_text(text)
    [row] = history.read_history(system)
    report.report_event(ProgressEvent.trial, history.event_line(row))
