"""`edge-osbuild fleet login`: addresses, authorities and tokens that it refuses, against a real server."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuild.fleet.authorities import load_authority
from tests.support.fleet_command_line import CommandLine
from tests.support.update_server import RunningServer, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def user(server: RunningServer, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path / "home")


def log_in(user: CommandLine, url: str, authority: str | Path, token: str, *, status: int) -> str:
    return user.call("fleet", "login", "other", url, "--ca", authority, "--token", token, status=status)


def test_nothing_is_sent_by_http(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    """Whoever listens at an http address sees no connection: from a login, and from a context that was stored."""
    authority = f"{server.data}/tls/server-ca.crt"
    stored = Path(user.environ["XDG_CONFIG_HOME"]) / "edge-osbuild/fleet.json"
    (tmp_path / "f.raucb").write_bytes(b"bundle")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "as plain text" in log_in(user, url, authority, "env:FLEET_TOKEN", status=2)
        document = json.loads(stored.read_text())
        document["contexts"]["default"]["url"] = url
        stored.write_text(json.dumps(document))
        for command in (
            ("fleet", "devices"), ("fleet", "device", "x"), ("publish", tmp_path / "f.raucb"),
            ("seed", "minimal", "--node", "n", "--enrol", "-o", tmp_path / "seed"),
        ):  # fmt: skip
            error = user.call(*command, status=2)
            assert "as plain text" in error and server.token not in error
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_other_addresses_are_usage_errors(user: CommandLine, server: RunningServer) -> None:
    authority = f"{server.data}/tls/server-ca.crt"
    for url, message in (
        ("updates.example.com:8443", "https://updates.example.com:8443"),
        ("ftp://updates.example.com", "is not the address of an update server"),
        ("https://updates.example.com:port", "is not the address of an update server"),
        ("https://", "is not the address of an update server"),
        ("https://updates.example.com/?x=1", "is not the address of an update server"),
    ):
        assert message in log_in(user, url, authority, "env:FLEET_TOKEN", status=2)


def test_an_address_with_a_password_is_refused_and_not_shown(user: CommandLine, server: RunningServer) -> None:
    url = "https://ann:hunter2@updates.example.com"
    error = log_in(user, url, f"{server.data}/tls/server-ca.crt", "env:FLEET_TOKEN", status=2)
    assert "contains a user or a password" in error and "hunter2" not in error


def test_a_file_that_is_not_a_certificate_is_named(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"hello"), ("binary", bytes(range(256)))):
        (tmp_path / name).write_bytes(content)
        error = log_in(user, server.url, tmp_path / name, "env:FLEET_TOKEN", status=1)
        assert "is not a certificate" in error and str(tmp_path / name) in error and "log in first" not in error


def test_what_is_wrong_with_the_certificate_or_the_token_is_said(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    authority = f"{server.data}/tls/server-ca.crt"
    load_authority(tmp_path, "server-ca")  # that of another server
    error = log_in(user, server.url, tmp_path / "server-ca.crt", "env:FLEET_TOKEN", status=1)
    assert "was not issued by the authority of --ca" in error and "does not answer" not in error
    error = log_in(user, server.url.replace("127.0.0.1", "127.1"), authority, "env:FLEET_TOKEN", status=1)
    assert "is not for the name 127.1" in error  # another name of the same address (inet_aton(3))
    user.environ["WRONG"] = "edge_access_wrong"
    error = log_in(user, server.url, authority, "env:WRONG", status=1)
    assert "does not accept the access token" in error and "Bearer" not in error and "edge_access_wrong" not in error


def test_a_secret_as_an_argument_is_a_usage_error_that_does_not_show_it(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    error = log_in(user, server.url, f"{server.data}/tls/server-ca.crt", "edge_access_hunter2", status=2)
    assert "--token is not a reference to a secret" in error and "hunter2" not in error
    data = ("serve", "--data", tmp_path / "data")
    error = user.call(*data, "--gateway-token", "hunter2", status=2)
    assert "--gateway-token is not a reference to a secret" in error and "hunter2" not in error
    assert "--database" in user.call(*data, "--database", "mysql://x", status=2)


def test_a_file_instead_of_the_data_folder_is_refused_with_a_hint(user: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = user.call("serve", "--data", tmp_path / "file", status=1)
    assert "the data folder is not a folder" in error and "name a folder with --data" in error
