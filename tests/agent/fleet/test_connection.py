"""How a device reaches its update server: through a proxy, within a time, and again after a pause."""

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osbuild.agent.fleet import connection
from osbuild.agent.fleet.connection import FleetServer, ServerUnreachable, next_pause
from osbuild.agent.http import TlsFiles
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


class Tunnel(socketserver.StreamRequestHandler):
    """An HTTP proxy that only tunnels (RFC 9110, 9.3.6)."""

    asked: list[str]

    def handle(self) -> None:
        target = self.rfile.readline().decode().split()[1]
        while self.rfile.readline().strip():
            pass
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.connection: other, other: self.connection}
            while True:
                for readable in select.select([*ends], [], [])[0]:
                    data = readable.recv(65536)
                    if not data:
                        return
                    ends[readable].sendall(data)


@contextmanager
def running_proxy() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a proxy, and what it was asked to connect to."""
    asked: list[str] = []
    handler = type("AskedTunnel", (Tunnel,), {"asked": asked})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}", asked
        proxy.shutdown()


def test_a_proxy_tunnels_what_is_proved_with_a_certificate(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.enrol("behind-a-proxy", create_token(server), tmp_path).close()
    names = ("behind-a-proxy.crt", "behind-a-proxy.key")
    files = TlsFiles(server.data / "tls/server-ca.crt", *(tmp_path / name for name in names))
    fleet = FleetServer(f"{server.url}{BASE}/behind-a-proxy", files.make_context())
    with running_proxy() as (address, asked):
        monkeypatch.setenv("https_proxy", address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert fleet.get().status == 200 and asked == [f"127.0.0.1:{server.port}"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fleet.get().status == 200 and len(asked) == 1


def test_a_server_that_says_nothing_is_unreachable_after_a_time(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fleet = FleetServer(f"https://127.0.0.1:{silent.getsockname()[1]}/x", server.context())
        with pytest.raises(ServerUnreachable):
            fleet.get()


def test_pauses_double_up_to_ten_minutes_and_differ_between_devices() -> None:
    for failures, longest in ((0, 5), (1, 10), (3, 40), (6, 320), (7, 600), (1000, 600)):
        pauses = {next_pause(failures) for _ in range(50)}
        assert len(pauses) > 40 and all(longest / 2 <= pause <= longest for pause in pauses)
