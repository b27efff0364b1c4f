"""The commands for manual snapshots, with a real SQLite database."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from osbuild.agent.__main__ import main
from osbuild.agent.cluster import snapshot, snapshot_command
from osbuild.agent.kubernetes import datastore
from osbuild.agent.system import System
from tests.support.kine import start_kine

CONFIG = "/registry/configmaps/default"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server with an object in its cluster, and a `systemctl` that says what the file `states` has."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    programs.mkdir()
    states(tmp_path, "inactive", "inactive")
    (programs / "systemctl").write_text(f"#!/bin/sh\ncat {tmp_path}/states\n")
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    image = {"kubernetes": {"role": "server", "distribution": "upstream", "version": "v1.36.3"}}
    (root / "usr/lib/edge-osbuild").mkdir(parents=True)
    (root / "usr/lib/edge-osbuild/image.json").write_text(json.dumps(image))
    write(root, "first")
    return root


def states(folder: Path, kine: str, k3s: str) -> None:
    """As `systemctl show --property=Id,ActiveState` prints it (systemctl(1))."""
    text = f"Id=kubernetes-server.service\nActiveState={kine}\n\nId=k3s-server.service\nActiveState={k3s}\n"
    (folder / "states").write_text(text)


def write(root: Path, name: str) -> None:
    with start_kine(root / datastore.FILE.lstrip("/")) as kine:
        kine.put(f"{CONFIG}/{name}")


def objects(root: Path) -> set[str]:
    with start_kine(root / datastore.FILE.lstrip("/")) as kine:
        return {name.removeprefix(f"{CONFIG}/") for name in kine.objects()}


def call(root: Path, *arguments: str) -> int:
    return main(["kubernetes", "--root", str(root), *arguments])


def test_a_manual_snapshot_is_listed_and_can_be_restored(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(node, "snapshots") == 0
    assert capsys.readouterr().out == "no snapshots\n"
    assert call(node, "snapshot") == 0
    name = capsys.readouterr().out.partition(",")[0]
    write(node, "second")
    assert call(node, "restore", name) == 0
    output = capsys.readouterr().out
    assert "lost changes: 1 created" in output and "is now snapshot" in output
    assert objects(node) == {"first"}
    assert call(node, "snapshots", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["reason"], one["kubernetes"]) for one in listed] == [
        ("replaced", "upstream v1.36.3"), ("asked", "upstream v1.36.3")
    ]  # fmt: skip
    assert call(node, "restore", listed[0]["name"]) == 0
    assert objects(node) == {"first", "second"}
    assert call(node, "snapshots") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3  # what this restore says, and a third snapshot


@pytest.mark.parametrize("case", ["unknown", "newer", "damaged", "agent"])
def test_an_impossible_restore_is_refused_with_the_reason(
    node: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(node, "snapshot") == 0
    (taken,) = snapshot.list_snapshots(System(node))
    write(node, "second")
    name, image = taken.name, node / "usr/lib/edge-osbuild/image.json"
    if case == "unknown":
        name = "000-v1.0.0"
    elif case == "newer":
        image.write_text(image.read_text().replace("v1.36.3", "v1.35.4"))
    elif case == "damaged":
        with taken.database.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096)
    else:
        image.write_text(image.read_text().replace("server", "agent"))
    assert call(node, "restore", name) == 1
    reason = {
        "unknown": f"existing snapshots: {taken.name}", "newer": "was written by",
        "damaged": "state.db: ", "agent": "it is not a server node",
    }[case]  # fmt: skip
    assert reason in capsys.readouterr().err
    assert objects(node) == {"first", "second"}


@pytest.mark.parametrize("state", ["active", "activating", "deactivating", "reloading", "failed", "inactive"])
@pytest.mark.parametrize("unit", ["kubernetes-server", "k3s-server"])
def test_a_restore_is_refused_while_a_service_may_write(
    node: Path, unit: str, state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that stops is not active, and yet its program may be about to write."""
    monkeypatch.setattr(snapshot_command, "STOP_PATIENCE", 0.1)
    assert call(node, "snapshot") == 0
    (taken,) = snapshot.list_snapshots(System(node))
    write(node, "second")
    states(node.parent, *(state if each == unit else "inactive" for each in ("kubernetes-server", "k3s-server")))
    capsys.readouterr()
    if state in ("failed", "inactive"):
        assert call(node, "restore", taken.name) == 0
        assert objects(node) == {"first"}
        return
    assert call(node, "restore", taken.name) == 1
    errors = capsys.readouterr().err
    assert f"Kubernetes is running: {unit}.service" in errors and "systemctl stop kubernetes.target" in errors
    assert objects(node) == {"first", "second"}


def test_a_restore_waits_for_services_that_are_stopping(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`systemctl stop` of a target returns before the target's services have stopped."""
    assert call(node, "snapshot") == 0
    (taken,) = snapshot.list_snapshots(System(node))
    write(node, "second")
    states(node.parent, "inactive", "deactivating")
    stopped = threading.Timer(1, states, (node.parent, "inactive", "inactive"))
    stopped.start()
    begin = time.monotonic()
    assert call(node, "restore", taken.name) == 0, capsys.readouterr().err
    stopped.join()
    assert time.monotonic() - begin >= 1
    assert objects(node) == {"first"}
