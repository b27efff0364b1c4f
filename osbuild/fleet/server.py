"""The update server as a process: its data folder, TLS, and the HTTP server."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from sqlalchemy import URL, Connection, func, select

from osbuild.fleet.application import make_application, repeat
from osbuild.fleet.audit import Origin
from osbuild.fleet.authorities import Authority, load_authority, load_server_certificate, server_context
from osbuild.fleet.bundles import FileStore
from osbuild.fleet.data_folder import DataFolder, open_data_folder
from osbuild.fleet.database import Database
from osbuild.fleet.lost_files import warn_of_lost_files
from osbuild.fleet.management.access import Role, create_access_token
from osbuild.fleet.request_signer import RequestSigner
from osbuild.fleet.secure_protocol import SecureLoop, SecureProtocol
from osbuild.fleet.service import CLIENT_TIMEOUT, SLEEP, Service
from osbuild.fleet.tables import access_tokens
from osbuild.fleet.tokens import hash_token
from osbuild.host import log
from osbuild.host.output import write_output
from osbuild.shared.errors import Error
from osbuild.shared.locks import hold_file_lock

BACKLOG = 2048
PRIVATE_UMASK = 0o077
RENEW_EVERY = 24 * 3600.0  # seconds
DAY = 24 * 3600 * 1000  # milliseconds
IDLE = 75  # seconds until an idle connection is closed: longer than most pauses between polls of a busy device
EVERY = ("0.0.0.0", "::")  # noqa: S104 - the addresses of all interfaces
# gc.set_threshold(): at most 50,000 new objects are searched at once, and all after 20 million that were not freed.
COLLECTIONS = (5_000, 10, 400)
CAUSED_BY_CLIENTS = ("Invalid HTTP request received.", "Unsupported upgrade request.", "No supported WebSocket library")
"""how the messages of uvicorn begin that anybody can cause, as often as they like"""
GRACE = 10  # seconds for requests in progress when the server stops


@dataclass(frozen=True)
class ServerOptions:
    """Where the server listens, further names by which devices reach it, the seconds between two polls, the token of
    a gateway that may speak for all devices.

    `database` is an address of PostgreSQL; without it, the database is in the data folder. `artifact_url` is where
    devices download bundles; without it, from this server. History is kept for `keep_history` days, or for ever. With
    `log_requests`, each request is logged. `client_timeout` is how many seconds a slow client has.
    """

    data: Path
    keyring: bytes
    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ()
    poll: int = SLEEP
    gateway_token: str | None = None
    database: URL | None = None
    artifact_url: str | None = None
    keep_history: int | None = None
    log_requests: bool = False
    client_timeout: float = CLIENT_TIMEOUT


@dataclass(frozen=True)
class PreparedServer:
    """A server that is ready to start. `authority_file` is the certificate that clients must trust.

    `certificate` has the folder, authority and names of the server's own certificate.
    """

    folder: DataFolder
    service: Service
    context: ssl.SSLContext
    socket: socket.socket
    authority_file: Path
    certificate: tuple[Path, Authority, Sequence[str]]
    log_requests: bool = False

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.socket.getsockname()[1])


def prepare_server(options: ServerOptions) -> PreparedServer:
    """Create or open the data folder, and listen. From now on, only its owner can read what this process creates.

    Raises `Error`.
    """
    os.umask(PRIVATE_UMASK)
    folder = open_data_folder(options.data, shared=options.database is not None)
    tls = folder.tls
    with hold_file_lock(tls):  # several servers may start at once
        authority, devices = load_authority(tls, "server-ca"), load_authority(tls, "device-ca")
        own = (tls, authority, server_names(options))
        certificate, key = load_server_certificate(*own)
    allow_connections()
    listening = open_socket(options.host, options.port)
    keyring = folder.path / "keyring.pem"
    write_output(keyring, options.keyring)
    files = FileStore(folder.files)
    if options.database is None:  # otherwise other servers may use the folder
        files.remove_scratch()
    gateway = None if options.gateway_token is None else hash_token(options.gateway_token)
    signer = RequestSigner(tls, authority)
    database = Database(options.database or folder.database)
    history = None if options.keep_history is None else options.keep_history * DAY
    service = Service(
        database, files, devices, keyring, options.poll, gateway, artifact_url=options.artifact_url,
        keep_history=history, signer=signer, client_timeout=options.client_timeout,
    )  # fmt: skip
    warn_of_lost_files(service)
    context, trusted = server_context(certificate, key, devices), tls / "server-ca.crt"
    return PreparedServer(folder, service, context, listening, trusted, own, options.log_requests)


def create_admin_token(service: Service, days: int, *, again: bool) -> str | None:
    """Return a new access token of an administrator, valid for `days`; None if there is a token, unless `again`."""
    now = service.clock()

    def create(connection: Connection) -> str | None:
        number = connection.execute(select(func.count()).select_from(access_tokens)).scalar_one()
        if number and not again:
            return None
        expires, origin = now + days * DAY, Origin("edge-osbuild serve", "", now)
        return create_access_token(
            connection, f"admin-{number}" if number else "admin", Role.admin, expires, origin
        ).token

    return service.database.begin_change(create).result()


def allow_connections() -> None:
    """Let this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def server_names(options: ServerOptions) -> Sequence[str]:
    """Return the names and addresses in the server's certificate."""
    own = [] if options.host in EVERY else [options.host]
    return list(dict.fromkeys([*options.names, *own, "localhost", "127.0.0.1", "::1", socket.gethostname()]))


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `Error`."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        hint = "choose another address and port with --listen"
        raise Error(f"the server can't listen: {error.strerror}", where=f"{host}:{port}", hint=hint) from error


class _Server(uvicorn.Server):
    """Ends in order on signals. uvicorn's own handlers end the process by the signal before the database is closed.

    `ending` is set then, so that live pages end at once.
    """

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending.set()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def spare_collections() -> None:
    """Let Python search for cyclic garbage less often, and never in the objects that exist now.

    Reference counts free nearly everything. A full search would stop all answers for 0.1 s, every few seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


def run_server(prepared: PreparedServer, started: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM. `started` is called when the first request is answered."""

    class PatientProtocol(SecureProtocol):
        """The protocol with the time limits of this server."""

        patience = prepared.service.client_timeout

    config = uvicorn.Config(
        make_application(prepared.service, log_requests=prepared.log_requests), http=PatientProtocol, ws="none",
        log_config=None, access_log=False,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=GRACE, server_header=False, backlog=BACKLOG,
        ssl_context_factory=lambda _config, _default: prepared.context,
        proxy_headers=False,  # anybody could send them
    )  # fmt: skip
    log.print_library_warnings()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # anybody can cause "SSL connection is closed"
    logging.getLogger("uvicorn.error").addFilter(lambda record: not str(record.msg).startswith(CAUSED_BY_CLIENTS))
    server = _Server(config, prepared.service.ending)

    async def renew() -> None:
        with hold_file_lock(prepared.folder.tls):
            certificate, key = load_server_certificate(*prepared.certificate)
        prepared.context.load_cert_chain(certificate, key)  # for connections from now on

    async def serve() -> None:
        renewing = asyncio.create_task(repeat(renew, RENEW_EVERY))
        serving = asyncio.create_task(server.serve(sockets=[prepared.socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        spare_collections()
        started()
        await serving
        renewing.cancel()

    try:
        with asyncio.Runner(loop_factory=lambda: SecureLoop(prepared.service.client_timeout)) as runner:
            runner.run(serve())
    finally:
        prepared.service.database.close()
        prepared.folder.close()
