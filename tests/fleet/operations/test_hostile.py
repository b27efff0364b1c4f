"""Clients that want to harm the server: it answers others meanwhile, in bounded memory, and with the right status."""

import asyncio
import os
import resource
import ssl
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pytest

from tests.support.examples import VARIABLE
from tests.support.raw_clients import PATIENT, RawClient, resident_memory, served_meanwhile, statuses
from tests.support.update_server import BASE, RunningServer, enrol_with_update, running_server

MOST = 64 * 2**20  # bytes that the server may need for all of these clients together, in addition to what it has
IDLE = 10_000 if os.environ.get(VARIABLE) == "all" else 200
IDLE_MEMORY = 400 * 2**20  # bytes with 10,000 idle connections
DEVICE = f"{BASE}/shop-1"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """A server with a device that has an action. It does not fail, and writes nothing to its log."""
    with running_server(folder) as server:
        enrol_with_update(server, "shop-1", folder)
        yield server
    assert server.process.stderr is not None and server.process.stderr.read() == ""


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """A server like the other one, which waits less long for slow clients, and the folder of its device."""
    folder = tmp_path_factory.mktemp("impatient")
    with running_server(folder, "--client-timeout", "6") as server:
        enrol_with_update(server, "shop-1", folder)
        yield server, folder
    assert server.process.stderr is not None and server.process.stderr.read() == ""


@pytest.fixture
def device(server: RunningServer, folder: Path) -> Iterator[httpx.Client]:
    with server.client("shop-1", folder) as client:
        client.timeout = httpx.Timeout(60)
        yield client


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test: other clients are served meanwhile, and the memory stays in bounds afterwards."""
    server: RunningServer
    if "impatient" in request.fixturenames:
        server, _ = request.getfixturevalue("impatient")
    else:
        server = request.getfixturevalue("server")
    before = resident_memory(server.process.pid)
    with served_meanwhile(server, lambda client: client.get("/healthz").text == "ok\n"):
        yield
    # The allocator keeps what thousands of connections have needed.
    assert resident_memory(server.process.pid) - before < (MOST if IDLE < 1000 else IDLE_MEMORY)


def nested(depth: int) -> bytes:
    return b'{"data": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"


@pytest.mark.parametrize(
    ("media_type", "body", "status"),
    [
        pytest.param("application/json", b'{"data": {"a": "' + b"x" * 300_000 + b'"}}', 413, id="a large text"),
        pytest.param("application/json", nested(30_000), 400, id="nested objects"),
        pytest.param("application/json", b"[" * 200_000, 400, id="nested lists"),
        pytest.param("application/json", b'{"data": {"a": "\xff"}}', 400, id="no UTF-8"),
        pytest.param("application/json", b"", 400, id="nothing"),
        pytest.param("application/json", b'{"data": {"a": NaN}}', 400, id="not a number"),
        pytest.param("application/cbor", b"\x81" * 200_000, 400, id="nested CBOR arrays"),
        pytest.param("application/cbor", b"\xc1" * 200_000, 400, id="nested CBOR tags"),
        pytest.param("application/cbor", b"\xa1\x61a" * 60_000, 400, id="nested CBOR maps"),
        pytest.param("application/cbor", b"\x9b" + b"\xff" * 8, 400, id="an array of 2**64 - 1 items"),
        pytest.param("application/cbor", b"\x5b\x7f" + b"\xff" * 7, 400, id="a string of that size"),
        pytest.param("application/cbor", b"\xbb" + b"\xff" * 8, 400, id="a map of that size"),
        pytest.param("application/cbor", b"\xc2\x5a\x00\x02\x00\x00" + b"\xff" * 2**17, 400, id="a huge number"),
        pytest.param("application/cbor", b"\xd8\x1c\x81\xd8\x1d\x00", 400, id="an array that contains itself"),
        pytest.param("application/cbor", cbor2.dumps({"data": {1: "x"}}), 400, id="a number as a name"),
        pytest.param("application/cbor", b"\xa1", 400, id="half a map"),
        pytest.param("text/plain", b'{"data": {}}', 415, id="text"),
        pytest.param("application/xml", b"<a/>", 415, id="XML"),
        pytest.param("", b'{"data": {}}', 415, id="no media type"),
    ],
)  # fmt: skip
def test_bodies_that_no_device_sends_are_refused(
    device: httpx.Client, media_type: str, body: bytes, status: int
) -> None:
    answer = device.put(f"{DEVICE}/configData", content=body, headers={"content-type": media_type})
    assert answer.status_code == status, answer.text[:300]
    if answer.content:
        assert answer.json()["message"] and len(answer.content) < 2000


@pytest.mark.parametrize(
    "path",
    [
        f"{DEVICE}/softwaremodules/1/artifacts/..%2f..%2ffleet.db",
        f"{DEVICE}/softwaremodules/1/artifacts/%2e%2e/%2e%2e/fleet.db",
        f"{DEVICE}/softwaremodules/1/artifacts/../../../../../fleet.db",
        f"{DEVICE}/softwaremodules/1/artifacts/one.raucb%00",
        f"{DEVICE}/softwaremodules/1/artifacts/one.raucb%2f..%2f..%2ftls%2fserver.key",
        "/static/../../../fleet.db",
        "/static/..%2f..%2ffleet.db",
        "/../../../../etc/passwd",
        "/..%5c..%5cetc%5cpasswd",
        "//etc/passwd",
        f"{BASE}/..%2f..%2fx",
    ],
)
def test_no_path_leads_to_a_file_that_is_not_offered(server: RunningServer, folder: Path, path: str) -> None:
    context = server.context()
    context.load_cert_chain(folder / "shop-1.crt", folder / "shop-1.key")
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    answer = asyncio.run(RawClient(server, context).send(request))
    (status,) = statuses(answer)
    assert status in (401, 404) and b"root:" not in answer and b"SQLite" not in answer


@pytest.mark.parametrize(
    "name",
    ["..", ".", ".hidden", "a%2fb", "..%2fx", "a%00b", "a%0ab", pytest.param("x" * 200, id="long"), "a%20b", "%ff"],
)
def test_a_bundle_has_a_name_that_is_safe_as_a_path(server: RunningServer, name: str) -> None:
    request = f"PUT /api/v1/bundles/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    data = f"{request}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    (status,) = statuses(asyncio.run(RawClient(server).send(data)))
    assert status in (400, 404)


def test_ranges_beyond_the_end_and_hundreds_of_them(device: httpx.Client, folder: Path) -> None:
    content = (folder / "one.raucb").read_bytes()
    url, size = f"{DEVICE}/softwaremodules/1/artifacts/one.raucb", len(content)

    def ask(*ranges: str) -> httpx.Response:
        return device.get(url, headers={"range": f"bytes={','.join(ranges)}"})

    for ranges in (
        (f"{size}-",), (f"{size}-{size + 10}",), (f"{10**17}-{10**18 - 1}",), ("9" * 400 + "-",), ("0-0", f"{size}-"),
        tuple(f"{2 * number}-{2 * number}" for number in range(101)), tuple("0-" for _ in range(1000)), ("",), (",,,",),
        tuple("0-0" for _ in range(5000)),
    ):  # fmt: skip
        refused = ask(*ranges)
        assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}"), ranges[:3]
    assert ask(f"{size - 5}-{size + 10**9}").content == content[-5:]
    several = ask(*(f"{2 * number}-{2 * number}" for number in range(100)))
    assert several.status_code == 206 and several.content.count(b"Content-Range:") == 100


def test_a_device_that_reports_too_much_is_told_when_to_try_again(device: httpx.Client) -> None:
    status: dict[str, object] = {"execution": "proceeding", "result": {"finished": "none"}, "details": ["x"] * 51}
    too_much = (
        device.post(f"{DEVICE}/deploymentBase/1/feedback", json={"status": status}),
        device.put(f"{DEVICE}/configData", json={"data": {f"a{number}": "x" for number in range(101)}}),
    )
    for answer in too_much:
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 60
    assert device.put(f"{DEVICE}/configData", json={"data": {"a": "x"}}).status_code == 200
    status |= {"details": ["x"] * 50, "code": 2**31 - 1}
    assert device.post(f"{DEVICE}/deploymentBase/1/feedback", json={"status": status}).status_code == 200
    status |= {"code": 2**31}
    assert device.post(f"{DEVICE}/deploymentBase/1/feedback", json={"status": status}).status_code == 400


def test_idle_connections_cost_little_memory(server: RunningServer) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] < IDLE + 500:
        pytest.skip(f"this system allows only {limit[1]} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    client, before = RawClient(server), resident_memory(server.process.pid)

    async def hold() -> int:
        slots = asyncio.Semaphore(50)

        async def open_one() -> asyncio.StreamWriter:
            async with slots:
                reader, writer = await client.open()
                writer.write(GET)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                return writer

        writers = await asyncio.gather(*(open_one() for _ in range(IDLE)))
        memory = resident_memory(server.process.pid)
        for writer in writers:
            writer.transport.abort()
        return memory

    memory = asyncio.run(hold())
    assert memory < IDLE_MEMORY
    assert (memory - before) / IDLE < 64 * 1024


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 40, GET, b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000, b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
    ids=["bytes", "HTTP without TLS", "a large hello", "SSL 2", "an alert"],
)  # fmt: skip
def test_garbage_instead_of_tls_ends_the_connection(impatient: tuple[RunningServer, Path], data: bytes) -> None:
    async def send() -> bytes:
        reader, writer = await RawClient(impatient[0]).open(tls=False)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENT):  # fails if the server keeps the connection
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    answer = asyncio.run(send())
    assert b"HTTP" not in answer and len(answer) < 100


def test_requests_of_one_connection_are_answered_in_their_order(server: RunningServer) -> None:
    paths = ["/healthz", "/nothing", "/readyz", "/api/v1/devices", "/healthz"]
    requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths[:-1]]
    last = f"GET {paths[-1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = asyncio.run(RawClient(server).send("".join([*requests, last]).encode()))
    assert statuses(answer) == [200, 404, 200, 401, 200]


def test_thousands_of_requests_at_once_end_the_connection(server: RunningServer) -> None:
    answer = asyncio.run(RawClient(server).send(GET * 50_000))
    assert set(statuses(answer)) <= {200, 400} and len(statuses(answer)) < 5000


POST = b"POST /enrol/v1 HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND, id="length and chunks"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + SECOND, id="chunks and length"
        ),
        pytest.param(POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + SECOND, id="two lengths"),
        pytest.param(POST + b"Content-Length: +0\r\n\r\n" + SECOND, id="a length with a sign"),
        pytest.param(POST + b"Content-Length: 0x0\r\n\r\n" + SECOND, id="a hexadecimal length"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n" + SECOND, id="a negative length"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND, id="an unknown coding"),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND, id="two codings"),
        pytest.param(POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SECOND, id="a space before the colon"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SECOND, id="a negative chunk"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + SECOND, id="a huge chunk"),
        pytest.param(POST + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n" + SECOND, id="a folded header"),
        pytest.param(b"POST /enrol/v1 HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + SECOND, id="new lines only"),
        pytest.param(b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n" + SECOND, id="an unknown version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP 2"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND, id="a path of bytes"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n" + SECOND, id="NUL in a name"),
        pytest.param(b"\r\n" * 20_000, id="empty lines"),
    ],
)
def test_a_request_with_two_readings_has_no_second_one_in_it(server: RunningServer, data: bytes) -> None:
    # The path of the second request does not exist: an answer 404 would be its answer.
    answer = asyncio.run(RawClient(server).send(data, patience=10))
    assert 404 not in statuses(answer) and len(statuses(answer)) <= 1
    assert not statuses(answer) or statuses(answer)[0] == 400


def test_old_versions_of_http_get_one_answer(server: RunningServer) -> None:
    answer = asyncio.run(RawClient(server).send(b"GET /healthz HTTP/1.0\r\n\r\n" + SECOND))
    assert statuses(answer) == [200] and answer.endswith(b"ok\n") and b"connection: close" in answer
    for simple in (b"GET /healthz\r\n\r\n", b"GET /healthz\r\nHost: x HTTP/1.1\r\n\r\n"):  # HTTP/0.9
        assert statuses(asyncio.run(RawClient(server).send(simple + SECOND))) == [200]


def test_slow_clients_are_cut_off(impatient: tuple[RunningServer, Path]) -> None:
    """They send a byte each second, or nothing at all, and have 3 minutes until the server must have ended them all."""
    server, folder = impatient
    context = server.context()
    context.load_cert_chain(folder / "shop-1.crt", folder / "shop-1.key")
    client = RawClient(server, context)
    put = f"PUT {DEVICE}/configData HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    hello = ssl_hello()

    async def trickle(first: bytes, *, tls: bool = True, more: bytes = b"x") -> bytes:
        """Send `first` and then a byte each second; return the answer when the server has closed the connection."""
        reader, writer = await client.open(tls=tls)

        async def send() -> None:
            writer.write(first)
            while more:
                await asyncio.sleep(1)
                writer.write(more)
                await writer.drain()

        sending = asyncio.create_task(send())
        answer = b""
        try:
            while part := await reader.read(65536):
                answer += part
        except (ConnectionError, ssl.SSLError):
            pass
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
        return answer

    async def read_nothing() -> bytes:
        """Ask for more than the buffers hold, read nothing, and end after the connection."""
        _, writer = await client.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        url = f"{DEVICE}/softwaremodules/1/artifacts/one.raucb"
        writer.write(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20)
        port = writer.get_extra_info("sockname")[1]
        while is_open(client.port, port):
            await asyncio.sleep(1)
        writer.transport.abort()
        return b""

    post = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: "
    clients = {
        "headers without an end": (trickle(b"GET /healthz HTTP/1.1\r\nX: "), []),
        "TLS without a request": (trickle(b"", more=b""), []),
        "a body": (trickle(put + b"Content-Length: 100000\r\n\r\n{"), [408]),
        "a body in chunks": (trickle(put + b"Transfer-Encoding: chunked\r\n\r\n", more=b"1\r\n \r\n"), [408]),
        "a body after its answer": (trickle(post + b"100000\r\n\r\n"), [404]),
        "new lines after a request": (trickle(post + b"1\r\n\r\n", more=b"\r\n"), [404]),
        "new lines": (trickle(GET, more=b"\r\n"), [200]),
        "half a handshake": (trickle(hello[: len(hello) // 2], tls=False, more=b""), []),
        "no handshake": (trickle(b"", tls=False, more=b""), []),
        "no reading": (read_nothing(), []),
    }

    async def limit(attack: Coroutine[Any, Any, bytes]) -> list[int] | str:
        try:
            return statuses(await asyncio.wait_for(attack, 180))
        except TimeoutError:
            return "still connected"

    async def attack() -> list[list[int] | str]:
        return await asyncio.gather(*(limit(attack) for attack, _ in clients.values()))

    answers = dict(zip(clients, asyncio.run(attack()), strict=True))
    assert answers == {name: expected for name, (_, expected) in clients.items()}


def is_open(server: int, client: int) -> bool:
    """Whether the server's end of a connection between two local ports is established (proc(5), /proc/net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(f":{server:04X}") and row[2].endswith(f":{client:04X}") and row[3] == "01" for row in rows
    )


def ssl_hello() -> bytes:
    """Return the first message of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def test_clients_that_read_nothing_cost_little_memory(server: RunningServer, folder: Path) -> None:
    context = server.context()
    context.load_cert_chain(folder / "shop-1.crt", folder / "shop-1.key")
    client, before = RawClient(server, context), resident_memory(server.process.pid)
    url = f"{DEVICE}/softwaremodules/1/artifacts/one.raucb"

    async def attack() -> int:
        writers = []
        for _ in range(40):
            _, writer = await client.open()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20)
            writers.append(writer)
        await asyncio.sleep(5)
        memory = resident_memory(server.process.pid)
        for writer in writers:
            writer.transport.abort()
        return memory

    assert asyncio.run(attack()) - before < MOST
