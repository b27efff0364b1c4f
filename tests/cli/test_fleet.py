"""`publish` and `fleet` against a real update server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import RunningServer, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


class CommandLine:
    """`edge-osbuild` of one user, who has logged in."""

    def __init__(self, server: RunningServer, home: Path, token: str = "") -> None:
        self.environ = {**os.environ, "XDG_CONFIG_HOME": str(home), "FLEET_TOKEN": token or server.token}
        self.run("fleet", "login", server.url, "--ca", f"{server.data}/tls/server-ca.crt", "--token", "env:FLEET_TOKEN")

    def run(self, *arguments: str | Path, status: int = 0) -> str:
        command = [sys.executable, "-m", "osbuild", *map(str, arguments)]
        result = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout if status == 0 else result.stderr


@pytest.fixture
def user(server: RunningServer, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path / "home")


def test_the_login_is_stored_for_the_user_only(user: CommandLine) -> None:
    stored = Path(user.environ["XDG_CONFIG_HOME"]) / "edge-osbuild/fleet.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert "no rollout" in user.run("fleet", "rollout", "list")


def test_without_a_login_every_command_says_how_to_log_in(user: CommandLine, tmp_path: Path) -> None:
    user.environ["XDG_CONFIG_HOME"] = str(tmp_path / "nobody")
    for arguments in (("fleet", "devices"), ("fleet", "rollout", "list"), ("publish", "f.raucb")):
        assert "edge-osbuild fleet login" in user.run(*arguments, status=1)


def test_a_seed_with_enrol_lets_its_node_enrol_once(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    output = tmp_path / "seed"
    user.run("seed", "minimal", "--node", "shop-17", "--enrol", "-o", output)
    data = yaml.safe_load((output / "user-data").read_text())
    (content,) = [file["content"] for file in data["write_files"] if file["path"] == "/etc/edge-osbuild/agent.json"]
    settings = json.loads(content)
    assert settings["server"] == server.url and settings["node"] == "shop-17"
    assert settings["authority"] == (server.data / "tls/server-ca.crt").read_text().rstrip("\n")
    server.enrol("shop-17", settings["enrolment"], tmp_path).close()
    with pytest.raises(AssertionError, match="for another device"):
        server.enrol("shop-18", settings["enrolment"], tmp_path)
    assert "shop-17" in user.run("fleet", "devices")


def test_people_get_tokens_and_devices_are_decommissioned(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    token = user.run("fleet", "enrol-token", "--device", "kiosk").strip()
    server.enrol("kiosk", token, tmp_path).close()
    ann = CommandLine(server, tmp_path / "ann", user.run("fleet", "token", "ann", "--role", "viewer").strip())
    assert "kiosk" in ann.run("fleet", "devices")
    assert "needs the role admin" in ann.run("fleet", "decommission", "kiosk", status=1)
    user.run("fleet", "decommission", "kiosk")
    assert "kiosk" not in ann.run("fleet", "devices")
    assert re.search(r"admin +127\.0\.0\.1 +device decommissioned +kiosk", ann.run("fleet", "audit"))
    assert re.search(r"ann +viewer +until \d{4}-", user.run("fleet", "tokens"))
    user.run("fleet", "revoke", "ann")
    assert "log in first" in ann.run("fleet", "devices", status=1)


def test_a_rollout_is_previewed_created_watched_and_ended(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "one.raucb", load_keys(server.data.parent / "keys"), "7.0.0")
    bundle = user.run("publish", tmp_path / "one.raucb").partition(":")[0]
    token = user.run("fleet", "enrol-token", "--uses", "5").strip()
    for number in range(4):
        server.enrol(f"till-{number}", token, tmp_path).close()
    order = ("fleet", "rollout", "create", "summer", bundle, "--select", "name=till-*", "--groups", "25,75")
    preview = user.run(*order, "--preview")
    assert preview.splitlines()[0] == "4 devices, in groups of 1, 3" and "till-3" in preview
    assert "no rollout summer" in user.run("fleet", "rollout", "show", "summer", status=1)
    assert "summer: edge-server 7.0.0, ready" in user.run(*order)
    assert "there is a rollout named summer already" in user.run(*order, status=1)
    started = json.loads(user.run("fleet", "rollout", "start", "summer", "--json"))
    assert [group["state"] for group in started["groups"]] == ["running", "waiting"]
    assert "paused by admin" in user.run("fleet", "rollout", "pause", "summer")
    assert "running" in user.run("fleet", "rollout", "resume", "summer")
    assert re.search(r"action \d+: edge-server 7.0.0, running", user.run("fleet", "device", "till-0"))
    assert "aborted by admin" in user.run("fleet", "rollout", "abort", "summer")
    assert "is aborted" in user.run("fleet", "rollout", "resume", "summer", status=1)
    assert "cancelling" in user.run("fleet", "device", "till-0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--select", "version"), "this selects nothing: version"),
        (("--groups", "a,b"), "these are not percentages: a,b"),
        (("--success", "101"), "--success"),
    ],
)
def test_wrong_options_of_a_rollout_are_usage_errors(user: CommandLine, options: tuple[str, str], message: str) -> None:
    assert message in user.run("fleet", "rollout", "create", "x", "1", *options, status=2)


def test_groups_that_are_not_all_devices_are_refused_by_the_server(user: CommandLine) -> None:
    error = user.run("fleet", "rollout", "create", "x", "1", "--groups", "10,20", status=1)
    assert "30 percent of the devices together, and must have 100" in error
