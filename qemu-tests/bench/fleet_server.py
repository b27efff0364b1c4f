"""The update server that is measured, and nginx with the same files."""

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, insert

from osbuild.fleet.audit import Origin
from osbuild.fleet.bundles import FileStore, NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.management.access import Role, create_access_token
from osbuild.fleet.states import ActionKind, ActionState
from osbuild.fleet.tables import actions, devices
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

DEVICES, BUSY = 100_000, 10_000  # registered, and with an action in progress
BUNDLE = 200 * 2**20  # bytes
DAY = 24 * 3600  # seconds
MEMBERS = 10_000
"""devices of the rollout"""
TOKEN = "bench-gateway"
BASE = "/DEFAULT/controller/v1"
NGINX = """
daemon off; user root; worker_processes 2; error_log stderr emerg; pid FOLDER/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
  server {
    listen 127.0.0.1:PORT ssl; ssl_certificate DATA/tls/server.crt; ssl_certificate_key DATA/tls/server.key;
    root DATA/files;
  }
}
"""


@dataclass(frozen=True)
class LoadedProcess:
    """A running server that listens at `port` of 127.0.0.1."""

    process: subprocess.Popen[str]
    port: int

    def processor_time(self) -> float:
        """Return the processor time of the process and those that it has started, in seconds."""
        return sum_processor_time(self.process.pid)


@dataclass(frozen=True)
class LoadedServer(LoadedProcess):
    """A running update server. `first_answer` is the time in seconds until it answered a poll."""

    data: Path
    first_answer: float

    def resident(self) -> float:
        """Return its resident memory in bytes."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(match[1]) * 1024 if match else 0.0

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)

    @property
    def authority(self) -> Path:
        """The certificate of its authority."""
        return self.data / "tls/server-ca.crt"


@dataclass(frozen=True)
class FilledFolder:
    """A data folder with devices, actions and a bundle: the bundle's file, the access token of an administrator."""

    file: StoredFile
    token: str


def sum_processor_time(process: int) -> float:
    """Return the processor time of a process and its children, in seconds (proc(5), `utime`, `stime`, `children`)."""
    folder = Path(f"/proc/{process}")
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    children = (folder / f"task/{process}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / 100 + sum(sum_processor_time(int(child)) for child in children)


def fill_folder(data: Path) -> FilledFolder:
    """Make a data folder with a database of SQLite."""
    data.mkdir(mode=0o700)
    source = data / "source"
    source.touch()
    os.truncate(source, BUNDLE)
    with source.open("rb") as file:
        stored = FileStore(data / "files").store_file(file)
    source.unlink()
    return FilledFolder(stored, fill_database(data / "fleet.db", stored))


def fill_database(location: Path | URL, stored: StoredFile) -> str:
    """Make a database, and return the access token of an administrator."""
    database = Database(location)

    def store(connection: Connection) -> str:
        bundle = add_bundle(connection, NewBundle("bench", "1.0.0", "bench", "bench.raucb"), stored, 0)
        selected = json.dumps({"version": "0.9.0"})  # by the rollout: the last devices
        rows = [
            {
                "name": f"device-{number:06}",
                "created": 0,
                "attributes": selected if number >= DEVICES - MEMBERS else "{}",
            }
            for number in range(DEVICES)
        ]
        connection.execute(insert(devices), rows)
        action = {
            "bundle": bundle.id, "kind": ActionKind.forced, "state": ActionState.running, "active": True,
            "weight": 1000, "created": 0,
        }  # fmt: skip
        connection.execute(insert(actions), [{**action, "device": number} for number in range(1, BUSY + 1)])
        expires = int(time.time() + DAY) * 1000
        return create_access_token(connection, "bench", Role.admin, expires, Origin("bench", "", 0)).token

    token = database.begin_change(store).result()
    database.close()
    return token


@contextmanager
def serving(data: Path, database: URL | None = None) -> Iterator[LoadedServer]:
    """Run the update server, on SQLite or a `database` of PostgreSQL. Raises `Error` if it does not start."""
    command = [sys.executable, "-m", "osbuild", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    environ = {**os.environ, "EDGE_BENCH_GATEWAY": TOKEN}
    if database is not None:
        command += ["--database", "env:EDGE_BENCH_DATABASE"]
        environ["EDGE_BENCH_DATABASE"] = database.render_as_string(hide_password=False)
    begin = time.monotonic()
    process = subprocess.Popen(
        [*command, "--gateway-token", "env:EDGE_BENCH_GATEWAY"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env=environ,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while not (match := re.search(r"serving at \S+:(\d+),", line := process.stderr.readline())):
            if not line:
                raise Error("the update server does not start", where=str(data))
        server = LoadedServer(process, int(match[1]), data, 0.0)
        asyncio.run(poll_once(server))
        yield LoadedServer(process, server.port, data, time.monotonic() - begin)
    finally:
        process.terminate()
        process.wait(30)


async def poll_once(server: LoadedServer) -> None:
    """Poll as one device. Raises `Error` if that is not answered with 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.context())
    await send_request(reader, writer, "GET", f"{BASE}/device-000001")
    writer.close()


async def send_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes = b""
) -> bytes:
    """Return the body of an answer. Raises `Error` if it is not 200."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: GatewayToken {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    if " 200 " not in status:
        raise Error(f"the update server answers {status!r} to {method} {path}")
    lengths = [int(line.partition(":")[2]) for line in headers if line.startswith("content-length:")]
    return await reader.readexactly(sum(lengths))


@contextmanager
def serving_nginx(tools: ToolsTree, data: Path, folder: Path) -> Iterator[LoadedProcess]:
    """Run nginx with the server's certificate and files, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = folder / "nginx.conf"
    text = NGINX.replace("FOLDER", str(folder)).replace("DATA", str(data)).replace("PORT", str(port))
    config.write_text(text)
    process = subprocess.Popen(tools.wrap_command(["nginx", "-c", str(config), "-e", "stderr"], [folder]), text=True)
    try:
        time.sleep(1)
        yield LoadedProcess(process, port)
    finally:
        process.terminate()
        process.wait(30)
