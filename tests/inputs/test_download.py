"""Downloads against a local server that misbehaves in each way that real ones do."""

import datetime
import hashlib
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from osbuild.host import http
from osbuild.host.cache import Cache
from osbuild.inputs import download as fetching
from osbuild.inputs.download import PinnedFile, Unavailable, download_file
from osbuild.shared.errors import Error

DATA = bytes(range(256)) * 8192  # 2 MiB
HASH = hashlib.sha256(DATA).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers the n-th request by the n-th of `answers`, and any later one by the last."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.requests: list[dict[str, str]] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(handler) -> None:
                with lock:
                    number = len(self.requests)
                    self.requests.append({**handler.headers, "path": handler.path})
                handler.close_connection = True
                answers[min(number, len(answers) - 1)](handler)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/k3s"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(*answers: Answer) -> Server:
            server = Server(answers)
            threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.http.server_close)
            stack.callback(server.http.shutdown)
            return server

        yield start


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "EDGE_OSBUILD_FOLDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def get(cache: Cache, *urls: str, folder: Path | None = None, size: int | None = None, timeout: float = 0.4) -> Path:
    return download_file(urls, PinnedFile("k3s", HASH, size), cache, folder=folder, timeout=timeout)


def left_over(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder(fetching.KIND).iterdir())


# What the server does.


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler: BaseHTTPRequestHandler, tag: str = '"one"', data: bytes = DATA) -> None:
    """A server that does everything right (RFC 9110, section 14)."""
    requested_range = handler.headers.get("Range")
    if requested_range and handler.headers.get("If-Range", tag) == tag:
        start = int(requested_range.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            return send(handler, 416, b"", Content_Range=f"bytes */{len(data)}")
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return send(handler, 206, data[start:], ETag=tag, Content_Range=span)
    return send(handler, 200, data, ETag=tag)


def changed(handler: BaseHTTPRequestHandler) -> None:
    whole(handler, '"two"')


def truncated(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, DATA[:500_000], ETag='"one"', Content_Length=str(len(DATA)))


def truncated_stale(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b"x" * 500_000, Content_Length=str(len(DATA)))


def ignores_range(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, DATA)


def wrong_range(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 206, DATA[7:], Content_Range=f"bytes 7-{len(DATA) - 1}/{len(DATA)}")


def broken(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 503, b"later")


def missing(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 404, b"no")


def other(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b"<html>please log in</html>")


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1)


def hangs_in_body(handler: BaseHTTPRequestHandler) -> None:
    truncated(handler)
    handler.wfile.flush()
    time.sleep(1)


def trickles(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b"", Content_Length="1000")
    for _ in range(30):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def beyond_length(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, DATA + b"more" * 1000, Content_Length=str(len(DATA)))


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(DATA)


def chunked(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for part in (DATA[:1000], DATA[1000:]):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\n\r\n")


def resets(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def redirects(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 302, b"", Location="/elsewhere")


# What must hold.


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ((whole,), 1),
        ((chunked,), 1),
        ((beyond_length,), 1),
        ((redirects, whole), 2),
        ((broken, broken, whole), 3),
        ((resets, whole), 2),
        ((silent, whole), 2),
        ((truncated, whole), 2),
        ((hangs_in_body, whole), 2),
        ((trickles, whole), 3),  # what trickled in was wrong, so the whole is asked for again
        ((truncated, ignores_range), 2),
        ((truncated, wrong_range, whole), 3),
        ((truncated, changed), 2),
        ((truncated_stale, whole), 3),
        ((truncated, truncated, truncated, whole), 4),
    ],
)
def test_the_right_file_arrives_in_spite_of(
    answers: tuple[Answer, ...], requests: int, serve: Callable[..., Server], cache: Cache
) -> None:
    server = serve(*answers)
    path = get(cache, server.url)
    assert path.read_bytes() == DATA
    assert len(server.requests) == requests
    assert left_over(cache) == [HASH]


@pytest.mark.parametrize(
    ("answer", "reason", "kind", "requests"),
    [
        (missing, "HTTP 404", Unavailable, 1),
        (broken, "HTTP 503", Unavailable, fetching.ATTEMPTS),
        (silent, "no answer within 0.4 s", Unavailable, fetching.ATTEMPTS),
        (truncated, "connection ended after 500000 of 2097152 bytes", Unavailable, fetching.ATTEMPTS),
        (trickles, "too slow", Unavailable, fetching.ATTEMPTS),
        (redirects, "infinite loop", Unavailable, 5),
        (other, f"sha256 is {hashlib.sha256(b'<html>please log in</html>').hexdigest()}", Error, 1),
    ],
)
def test_a_failure_says_why(
    answer: Answer, reason: str, kind: type[Error], requests: int, serve: Callable[..., Server], cache: Cache
) -> None:
    server = serve(answer)
    with pytest.raises(Error) as caught:
        get(cache, server.url)
    assert type(caught.value) is kind
    assert server.url in caught.value.message
    assert reason in caught.value.message
    assert caught.value.hint
    assert len(server.requests) == requests
    assert HASH not in left_over(cache)


def test_a_wrong_file_is_discarded_and_both_hashes_are_reported(serve: Callable[..., Server], cache: Cache) -> None:
    with pytest.raises(Error, match=f"sha256 is [0-9a-f]{{64}}, expected {HASH}"):
        get(cache, serve(other).url)
    assert left_over(cache) == []


def test_resuming_asks_for_the_rest_of_the_same_file(serve: Callable[..., Server], cache: Cache) -> None:
    server = serve(truncated, whole)
    get(cache, server.url)
    assert server.requests[1]["Range"] == "bytes=500000-"
    assert server.requests[1]["If-Range"] == '"one"'


def test_a_part_from_one_mirror_is_resumed_from_the_next(serve: Callable[..., Server], cache: Cache) -> None:
    first, second = serve(truncated), serve(whole)
    assert get(cache, first.url, second.url).read_bytes() == DATA
    assert second.requests[0]["Range"] == "bytes=500000-"
    assert "If-Range" not in second.requests[0]


def test_a_part_that_is_complete_is_not_downloaded_again(serve: Callable[..., Server], cache: Cache) -> None:
    part = cache.folder(fetching.KIND) / f"{HASH}.part"
    part.mkdir()
    (part / "data").write_bytes(DATA)
    server = serve(whole)
    assert get(cache, server.url).read_bytes() == DATA
    assert len(server.requests) == 1
    assert left_over(cache) == [HASH]


def test_a_part_longer_than_the_file_is_dropped(serve: Callable[..., Server], cache: Cache) -> None:
    part = cache.folder(fetching.KIND) / f"{HASH}.part"
    part.mkdir()
    (part / "data").write_bytes(DATA + b"more")
    assert get(cache, serve(whole).url).read_bytes() == DATA


def test_a_body_without_end_stops_at_the_size(serve: Callable[..., Server], cache: Cache) -> None:
    with pytest.raises(Error, match=f"more than {len(DATA)} bytes"):
        get(cache, serve(endless).url, size=len(DATA))
    assert left_over(cache) == []


def test_another_size_than_the_pinned_one_is_refused_before_the_body(
    serve: Callable[..., Server], cache: Cache
) -> None:
    with pytest.raises(Error, match=f"size is {len(DATA)} bytes, expected 5"):
        get(cache, serve(whole).url, size=5)


def test_mirrors_are_tried_in_order_and_each_reason_is_reported(serve: Callable[..., Server], cache: Cache) -> None:
    first, second, third = serve(missing), serve(other), serve(whole)
    assert get(cache, first.url, second.url, third.url).read_bytes() == DATA
    with pytest.raises(Error) as caught:
        download_file(
            [first.url, "http://127.0.0.1:1/x", "gopher://a/b"], PinnedFile("k3s", "0" * 64), cache, timeout=1
        )
    for reason in ("HTTP 404", "127.0.0.1:1/x: Connection refused", "gopher is not supported"):
        assert reason in caught.value.message


def test_a_server_that_does_not_answer_a_connection_is_given_up_soon(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http.CONNECT_TIMEOUT <= 5
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # a full backlog: the next connection stays unanswered
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"cannot connect within 0\.2 s"):
            get(cache, f"http://127.0.0.1:{listener.getsockname()[1]}/k3s")
        assert time.monotonic() - begin < 2


def test_a_name_that_does_not_resolve_is_reported(cache: Cache) -> None:
    with pytest.raises(Unavailable, match="cannot resolve the name"):
        get(cache, "http://host.invalid/k3s")


def test_plain_paths_and_file_urls(tmp_path: Path, cache: Cache) -> None:
    source = tmp_path / "with space+plus"
    source.write_bytes(DATA)
    assert get(cache, str(source)).read_bytes() == DATA
    assert get(Cache(tmp_path / "second"), source.as_uri()).read_bytes() == DATA
    with pytest.raises(Unavailable, match="No such file"):
        get(Cache(tmp_path / "third"), str(tmp_path / "absent"))


@pytest.mark.parametrize("name", ["k3s", "k3s-armhf", HASH])
def test_a_folder_that_has_the_file_spares_the_network(
    name: str, tmp_path: Path, cache: Cache, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(DATA)
    server = serve(whole)
    monkeypatch.setenv("EDGE_OSBUILD_FOLDER", str(folder))
    assert get(cache, server.url + "-armhf").read_bytes() == DATA
    assert server.requests == []


def test_a_wrong_file_in_the_folder_is_skipped_and_reported(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "k3s").write_bytes(b"older")
    with pytest.raises(Error, match="k3s: sha256 is") as caught:
        get(cache, "http://127.0.0.1:1/k3s", folder=tmp_path)
    assert not isinstance(caught.value, Unavailable)


def test_what_is_in_the_cache_is_not_downloaded_but_checked(serve: Callable[..., Server], cache: Cache) -> None:
    server = serve(whole)
    path = get(cache, server.url)
    assert get(cache, server.url) == path
    assert len(server.requests) == 1
    path.write_bytes(b"damaged")
    assert get(cache, server.url).read_bytes() == DATA
    assert len(server.requests) == 2


def test_the_proxy_of_the_environment_is_used(
    serve: Callable[..., Server], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(whole)
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1/k3s"))
    assert get(cache, "http://host.invalid/k3s").read_bytes() == DATA
    assert server.requests[0]["path"] == "http://host.invalid/k3s"


def test_user_and_password_go_to_the_server_and_into_no_message(
    serve: Callable[..., Server], cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(broken)
    with pytest.raises(Unavailable) as caught:
        get(cache, server.url.replace("http://", "http://me:hush@") + "?token=hush")
    assert server.requests[0]["Authorization"] == "Basic bWU6aHVzaA=="
    assert server.requests[0]["path"] == "/v1/k3s?token=hush"
    assert "hush" not in caught.value.message + "".join(capsys.readouterr())


def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirror")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(signed.public_bytes(Encoding.PEM) + secret)
    return path


def test_https_trusts_the_authorities_of_the_environment_only(
    tmp_path: Path, serve: Callable[..., Server], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, pem = serve(whole), certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    with pytest.raises(Unavailable, match="certificate not trusted"):
        get(cache, url)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert get(cache, url).read_bytes() == DATA


def test_two_at_once_download_once(serve: Callable[..., Server], cache: Cache) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        whole(handler)

    server = serve(slow)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(get(cache, server.url).read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DATA] * 3
    assert len(server.requests) == 1


def test_ctrl_c_leaves_a_part_that_is_resumed(serve: Callable[..., Server], cache: Cache) -> None:
    begun = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, DATA[: len(DATA) // 2], Content_Length=str(len(DATA)), ETag='"one"')
        handler.wfile.flush()
        begun.set()
        time.sleep(10)

    server = serve(half, whole)
    program = (
        "import sys; from pathlib import Path; from osbuild.inputs.download import *; from "
        "osbuild.host.cache import Cache\n"
    )
    program += "download_file([sys.argv[1]], PinnedFile('k3s', sys.argv[2]), Cache(Path(sys.argv[3])))"
    child = subprocess.Popen(
        [sys.executable, "-c", program, server.url, HASH, cache.root], stderr=subprocess.PIPE, cwd=Path.cwd()
    )
    assert begun.wait(20)
    data = cache.folder(fetching.KIND) / f"{HASH}.part" / "data"
    limit = time.monotonic() + 10
    while not data.exists() or data.stat().st_size < len(DATA) // 4:
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    child.communicate(timeout=10)
    assert child.returncode == -signal.SIGINT
    assert left_over(cache) == [f"{HASH}.part"]
    have = data.stat().st_size
    assert len(DATA) // 4 <= have <= len(DATA) // 2
    assert get(cache, server.url).read_bytes() == DATA
    assert server.requests[1]["Range"] == f"bytes={have}-"


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/x", "http://host:99999/x"])
def test_a_text_that_is_not_a_url_is_an_error(url: str, cache: Cache) -> None:
    with pytest.raises(Error, match="is not a URL"):
        get(cache, url)
