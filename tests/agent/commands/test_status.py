"""`edge-agent status`, the command line of the agent, and its zipapp."""

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuild.agent.commands.server_check import check_server
from osbuild.agent.commands.status import collect_status, format_duration, status_lines
from osbuild.rootfs.agent_zipapp import build_zipapp
from osbuild.shared.uefi_entries import parse_entry_name
from tests.agent.test_health import Device
from tests.support.interrupts import interrupt_at_import


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device(tmp_path, uptime=3725.5)
    device.put(
        "usr/lib/edge-osbuild/image.json",
        '{"name": "edge-server", "version": "1.2.0", "architecture": "x86_64", '
        '"kubernetes": {"distribution": "upstream", "version": "v1.36.3", "role": "server"}}',
    )
    device.put("proc/sys/kernel/osrelease", "6.12.1-cloud-amd64\n")
    (device.root / "var").mkdir()
    return device


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edge-a.efi", ("a", None, 0, "good")),
        ("edge-a+3.efi", ("a", 3, 0, "trial")),
        ("edge-b+2-1.efi", ("b", 2, 1, "trial")),
        ("edge-b+0-3.efi", ("b", 0, 3, "bad")),
    ],
)
def test_an_entry_is_read_from_its_name(name: str, expected: tuple[str, int | None, int, str]) -> None:
    entry = parse_entry_name(name)
    assert entry is not None
    assert (entry.slot, entry.left, entry.done, entry.state) == expected


@pytest.mark.parametrize("name", ["", "edge.efi", "edge-a.efi.new", ".edge-a.efi", "edge-a+x.efi", "edge-a+1-2-3.efi"])
def test_other_files_are_not_entries(name: str) -> None:
    assert parse_entry_name(name) is None


@pytest.mark.parametrize(
    ("entries", "booted", "state", "why"),
    [
        (["edge-a.efi"], None, "good", "slot a is good, and no other slot has an image"),
        (["edge-a.efi", "edge-b.efi"], None, "good", "slot a is good and the boot loader's choice"),
        (["edge-a+2-1.efi", "edge-b.efi"], "edge-a+2-1.efi", "trial", "slot a is on trial: 1 try used, 2 left"),
        (["edge-a.efi", "edge-b+3.efi"], None, "good", "slot a is good; slot b will be tried at the next boot"),
        (
            ["edge-a.efi", "edge-b+0-3.efi"],
            None,
            "good",
            "fell back to slot a: slot b failed 3 tries and has none left",
        ),
        (["edge-a+0-3.efi", "edge-b.efi"], "edge-a+0-3.efi", "bad", "slot a is on its last try"),
        (["edge-a+0-3.efi", "edge-b+0-2.efi"], "edge-a+0-3.efi", "bad", "no slot is good: slot a and slot b"),
        ([], None, "unknown", "its entry cannot be read"),
    ],
)
def test_the_status_says_why_this_slot_is_running(
    device: Device, entries: list[str], booted: str | None, state: str, why: str
) -> None:
    device.entries(*entries, booted=booted)
    node_status = collect_status(device.system)
    assert node_status["boot"]["state"] == state
    assert why in node_status["why"]


SEED = {
    "source": "stored",
    "digest": "0" * 32,
    "configured": True,
    "errors": ["write_files, /etc/a: is a directory"],
    "warnings": ["user-data: `swap` has no effect: the kubelet does not start if swap is enabled"],
}


def test_the_json_status_is_complete(device: Device) -> None:
    device.put("run/edge-osbuild/seed.json", json.dumps(SEED))
    device.entries("edge-a+2-1.efi", booted="edge-a+2-1.efi")
    health = {"healthy": True, "final": True, "seconds": 40.2, "checks": []}
    device.put("run/edge-osbuild/health.json", json.dumps(health))
    node_status = collect_status(device.system)
    assert node_status.pop("space")["/var"]["size"] > 0
    assert node_status == {
        "name": "edge-server",
        "version": "1.2.0",
        "architecture": "x86_64",
        "slot": "a",
        "root_hash": "abc",
        "kernel": "6.12.1-cloud-amd64",
        "kubernetes": {"distribution": "upstream", "version": "v1.36.3", "role": "server"},
        "boot": {"entry": "edge-a+2-1.efi", "state": "trial", "left": 2, "done": 1, "counted": True},
        "why": "slot a is on trial: 1 try used, 2 left",
        "seed": {**SEED, "notes": []},
        "network": {"problems": []},
        "join": [],
        "health": health,
        "uptime": 3725.5,
    }


def test_the_status_text_is_short_and_aligned(device: Device) -> None:
    device.entries("edge-a.efi")
    checks = [
        {"name": "10-systemd", "ok": True, "output": "", "seconds": 0.1},
        {"name": "50-node", "ok": False, "output": "not Ready:\nno network", "seconds": 0.1},
    ]
    device.put(
        "run/edge-osbuild/health.json",
        json.dumps({"healthy": False, "final": True, "seconds": 600.0, "checks": checks}),
    )
    device.put("run/edge-osbuild/seed.json", json.dumps(SEED))
    device.put("run/edge-osbuild/network.json", '{"problems": ["network-config, line 2, column 1: no"]}')
    text = status_lines(collect_status(device.system))
    assert [re.sub(r"[\d.]+ of [\d.]+ GiB", "N of M GiB", line) for line in text] == [
        "image       edge-server 1.2.0 (x86_64)",
        "slot        a",
        "why         slot a is good, and no other slot has an image",
        "boot        good",
        "root hash   abc",
        "kernel      6.12.1-cloud-amd64",
        "kubernetes  upstream v1.36.3, server",
        "up          1 h 2 min",
        "/var        N of M GiB free",
        "seed        stored, 1 error, 1 warning",
        "health      NOT HEALTHY",
        "            ok  10-systemd",
        "            BAD 50-node     not Ready: no network",
        "",
        "seed error: write_files, /etc/a: is a directory",
        "seed warning: user-data: `swap` has no effect: the kubelet does not start if swap is enabled",
        "network error: network-config, line 2, column 1: no",
    ]


def test_an_empty_device_has_a_status_too(tmp_path: Path) -> None:
    node_status = collect_status(Device(tmp_path / "x").system)
    (tmp_path / "x/proc/cmdline").unlink()
    assert node_status["health"]["healthy"] is False
    assert status_lines(node_status)


def test_durations_have_two_units_at_most() -> None:
    assert [format_duration(seconds) for seconds in (0, 59.9, 61, 7200, 90061)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "2 h",
        "1 d 1 h",
    ]


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that answers 404 to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}/"
        listener.shutdown()


def test_every_http_answer_means_that_the_server_is_reachable(server: str) -> None:
    assert check_server(server, 5) is None


def test_an_unreachable_server_is_reported_with_the_reason() -> None:
    assert "refused" in (check_server("http://127.0.0.1:9/", 5) or "")
    assert "not an http" in (check_server("file:///etc/passwd", 5) or "")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "edge-agent"
    build_zipapp(path)
    return path


def run(agent: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start it as a device does, without anything of this environment in reach."""
    command = [sys.executable, "-IS", str(agent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "100"}, check=False, cwd="/")


def test_the_zipapp_is_reproducible(agent: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    build_zipapp(again)
    assert again.read_bytes() == agent.read_bytes()
    assert agent.read_bytes().startswith(b"#!/usr/bin/python3")
    assert agent.stat().st_mode & 0o777 == 0o755


def test_every_command_works_with_only_the_standard_library(agent: Path) -> None:
    top = run(agent, "--help")
    assert top.returncode == 0
    for command in ("status", "health", "reach", "seed", "update", "rollback", "explain", "kubernetes"):
        assert re.search(rf"^ +{command}\b", top.stdout, re.MULTILINE)
        result = run(agent, command, "--help")
        assert (result.returncode, result.stderr) == (0, "")


def test_exit_status_is_1_for_failure_and_2_for_a_wrong_command_line(agent: Path) -> None:
    result = run(agent, "status", "--json")
    assert (result.returncode, json.loads(result.stdout)["health"]["healthy"]) == (1, False)
    for arguments in ([], ["stat"], ["status", "--jso=n"], ["health", "--deadline", "soon"]):
        wrong = run(agent, *arguments)
        assert wrong.returncode == 2
        assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("module", ["argparse", "osbuild.agent.proxy"])
def test_ctrl_c_during_imports_of_the_agent_prints_one_line(module: str, tmp_path: Path) -> None:
    build_zipapp(tmp_path / "edge-agent")
    command = [sys.executable, "-IS", "-X", "importtime", str(tmp_path / "edge-agent"), "status"]
    assert interrupt_at_import(command, module) == (130, ["interrupted"])
