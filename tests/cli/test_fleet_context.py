"""Several update servers of one user, and completion of names, against real servers."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet_command_line import CommandLine
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder) as server:
        token = create_token(server, uses=3)
        for name in ("shop-1", "shop-2", "till-1"):
            server.enrol(name, token, folder).close()
        yield server


@pytest.fixture
def user(server: RunningServer, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path / "home")


def names(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()]


def test_one_user_works_with_several_servers(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    with running_server(tmp_path / "lab") as lab:
        lab.enrol("bench-1", create_token(lab), tmp_path).close()
        user.environ["LAB_TOKEN"] = lab.token
        authority = f"{lab.data}/tls/server-ca.crt"
        user.run("fleet", "login", "lab", lab.url, "--ca", authority, "--token", "env:LAB_TOKEN")
        assert names(user.run("fleet", "devices")) == ["bench-1"], "the newest login is the current one"
        assert user.run("fleet", "context", "list").split() == ["default", server.url, "*", "lab", lab.url]
        assert names(user.run("fleet", "--context", "default", "devices")) == ["shop-1", "shop-2", "till-1"]
        user.environ["EDGE_FLEET_CONTEXT"] = "default"
        assert names(user.run("fleet", "devices")) == ["shop-1", "shop-2", "till-1"]
        assert names(user.run("fleet", "--context", "lab", "devices")) == ["bench-1"], "the option is stronger"
        del user.environ["EDGE_FLEET_CONTEXT"]
        user.run("fleet", "context", "use", "default")
        assert names(user.run("fleet", "devices")) == ["shop-1", "shop-2", "till-1"]
        assert "choose one of default, lab" in user.run("fleet", "context", "use", "home", status=1)
        assert "choose one of default, lab" in user.run("publish", "f.raucb", "--context", "home", status=1)
        removed = user.run("fleet", "context", "remove", "default")
        assert removed == "forgot default: no update server is the current one now\n"
        error = user.run("fleet", "devices", status=1)
        assert "no update server is the current one" in error and "`edge-osbuild fleet context use NAME`" in error
        assert user.run("fleet", "context", "list").split() == ["lab", lab.url], "no star"
        assert names(user.run("fleet", "--context", "lab", "devices")) == ["bench-1"]
        assert server.token not in (Path(user.environ["XDG_CONFIG_HOME"]) / "edge-osbuild/fleet.json").read_text()


def test_the_shell_completes_names(user: CommandLine, server: RunningServer) -> None:
    assert user.complete("edge-osbuild fleet device sh") == ["shop-1", "shop-2"]
    assert user.complete("edge-osbuild fleet decommission shop-1") == ["shop-1"]
    assert user.complete("edge-osbuild fleet rollout show ") == []
    assert user.complete("edge-osbuild fleet --context d") == ["default"]


def test_completion_is_silent_and_short_without_a_server(user: CommandLine, tmp_path: Path) -> None:
    assert user.complete("edge-osbuild fleet device s", XDG_CONFIG_HOME=str(tmp_path / "nobody")) == []
    stored = Path(user.environ["XDG_CONFIG_HOME"]) / "edge-osbuild/fleet.json"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and says nothing
        contexts = json.loads(stored.read_text())
        contexts["contexts"]["default"]["url"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        stored.write_text(json.dumps(contexts))
        # Without a limit this would take 30 s, and httpx's error would be printed.
        assert user.complete("edge-osbuild fleet device s") == []
    stored.write_text("{")
    assert user.complete("edge-osbuild fleet --context s") == []


def test_watched_devices_are_printed_when_they_change(user: CommandLine, server: RunningServer) -> None:
    command = [sys.executable, "-m", "osbuild", "fleet", "devices", "--watch"]
    environ = {**user.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = [process.stdout.readline().split() for _ in range(3)]
        assert [row[0] for row in first] == ["shop-1", "shop-2", "till-1"]
        with server.client("shop-2", server.data.parent) as device:
            device.put(f"{BASE}/shop-2/configData", json={"data": {"version": "9.9.9"}})
        assert process.stdout.readline().split()[:3] == ["shop-2", "9.9.9", "?"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        process.communicate()
