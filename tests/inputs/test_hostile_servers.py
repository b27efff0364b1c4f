"""Downloads from servers that lie, stall or send without end: a clear reason in time, and nothing of it is kept."""

import hashlib
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

import pytest

from osbuild.host import http
from osbuild.host.cache import Cache
from osbuild.inputs import download as fetching
from osbuild.inputs.download import KIND, PinnedFile, Unavailable, download_file
from osbuild.inputs.small_text import read_text
from osbuild.shared.errors import Error
from tests.inputs.test_download import certificate
from tests.support.mounted import mount_tmpfs

DATA = bytes(range(256)) * 8192  # 2 MiB
HASH = hashlib.sha256(DATA).hexdigest()
PATIENCE = 20  # seconds for one download, each of which has a time-out of half a second and four attempts

Answer = Callable[[socket.socket], object]
Serve = Callable[[Answer], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a server whose every answer is the bytes that a function sends, and gives its URL."""
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    monkeypatch.setattr(fetching, "SLOWEST", 2**20)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "EDGE_OSBUILD_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def start(answer: Answer) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve_one(connection: socket.socket) -> None:
                with connection, suppress(OSError):
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(4096)
                    answer(connection)

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/v1/k3s"

        yield start


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    def stopped(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: nothing after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, stopped)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said(*lines: bytes, body: bytes = b"") -> Answer:
    """An answer of a status line and headers."""
    text = b"HTTP/1.1 " + b"\r\n".join(lines) + b"\r\n\r\n" + body
    return lambda connection: connection.sendall(text)


def dripping(beginning: bytes) -> Answer:
    """A byte now and then, so that no single read takes long."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)

    return answer


def without_end(beginning: bytes, again: bytes, *, pause: float = 0) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(again)
            time.sleep(pause)

    return answer


def redirect(to: bytes) -> Answer:
    return said(b"302 Found", b"Location: " + to, b"Content-Length: 0")


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DIGITS = b"9" * 5000  # more than int() takes
ANSWERS: dict[str, tuple[Answer, str]] = {
    "headers without end": (dripping(b"HTTP/1.1 200 OK\r\n"), "no answer within"),
    "a status line without end": (dripping(b"HTTP/1.1 200 "), "no answer within"),
    "100 Continue without end": (without_end(b"", CONTINUE, pause=0.01), "no answer within"),
    "a slow body": (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"), "too slow"),
    "a length of many digits": (said(b"200 OK", b"Content-Length: " + DIGITS, body=b"\xff"), "expected"),
    "a chunk of negative size": (said(b"200 OK", b"Transfer-Encoding: chunked", body=b"-5\r\nx"), "IncompleteRead"),
    "a redirect to ftp": (redirect(b"ftp://127.0.0.1:1/k3s"), "redirects from http to ftp"),
    "a redirect to a file": (redirect(b"file:///etc/passwd"), "not allowed"),
    "a redirect to no URL": (redirect(b"http://[bad"), "Invalid"),
    "a redirect without end": (redirect(b"/again"), "infinite loop"),
    "a body that is packed": (said(b"200 OK", b"Content-Encoding: gzip", body=b"\x1f\x8b\x08"), r"expected|not a text"),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_hostile_answer_is_refused_in_time(name: str, resumed: bool, serve: Serve, tmp_path: Path) -> None:
    answer, reason = ANSWERS[name]
    cache = Cache(tmp_path / "cache")
    if resumed:
        part = cache.folder(KIND) / f"{HASH}.part"
        part.mkdir()
        (part / "data").write_bytes(DATA[:1000])
    with pytest.raises(Error, match=reason) as caught:
        download_file([serve(answer)], PinnedFile("k3s", HASH), cache, timeout=0.5)
    assert "127.0.0.1" in caught.value.message and caught.value.hint
    assert not (cache.folder(KIND) / HASH).exists()


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "a length of many digits"])
def test_a_small_text_of_a_hostile_server_is_refused_in_time(name: str, serve: Serve) -> None:
    answer, reason = ANSWERS[name]
    with pytest.raises(Unavailable, match=reason):
        read_text([serve(answer)], limit=65536, timeout=0.5)


def test_a_server_that_sends_100_continue_as_fast_as_it_can_is_given_up(serve: Serve) -> None:
    with pytest.raises(Unavailable, match="no answer within"):
        read_text([serve(without_end(b"", CONTINUE))], limit=65536, timeout=0.5)


def test_a_range_of_many_digits_is_another_range(serve: Serve, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    part = cache.folder(KIND) / f"{HASH}.part"
    part.mkdir()
    (part / "data").write_bytes(DATA[:1000])
    lying = said(b"206 Partial Content", b"Content-Range: bytes " + DIGITS + b"-2/3", b"Content-Length: 1", body=b"x")
    with pytest.raises(Unavailable, match="a range that was not requested"):
        download_file([serve(lying)], PinnedFile("k3s", HASH), cache, timeout=0.5)


def test_the_body_of_a_redirect_is_not_read(serve: Serve, tmp_path: Path) -> None:
    """It has no end, and urllib would keep all of it in memory."""
    answer = without_end(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b"x" * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unavailable, match="infinite loop"):
        download_file([serve(answer)], PinnedFile("k3s", HASH), Cache(tmp_path), timeout=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


def test_a_redirect_from_https_to_http_is_not_followed(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checksum that came that way would be trusted as if TLS had protected it."""
    plain = serve(said(b"200 OK", b"Content-Length: 2", body=b"hi"))
    assert read_text([plain], limit=100)[1] == "hi"
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                        connection.recv(4096)
                        redirect(plain.encode())(connection)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Unavailable, match="redirects from https to http,"):
            read_text([f"https://127.0.0.1:{listener.getsockname()[1]}/sums"], limit=100)
        listener.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_stalls_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setenv("https_proxy", serve(dripping(b"HTTP/1.1 200 OK\r\nX: ")))
    with pytest.raises(Unavailable, match=r"cannot connect within 0\.5 s"):
        read_text(["https://mirror.invalid/sums"], limit=100, timeout=0.5)


@pytest.mark.parametrize("length", [b"Content-Length: 2000000", b"X: y"])
def test_a_full_disk_is_reported_and_the_partial_file_is_removed(length: bytes, serve: Serve, tmp_path: Path) -> None:
    with mount_tmpfs(tmp_path / "small", 2**20) as small:
        cache = Cache(small)
        with pytest.raises(Error, match="no space left") as caught:
            url = serve(without_end(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n", DATA))
            download_file([url], PinnedFile("k3s", HASH), cache, timeout=0.5)
        assert "EDGE_OSBUILD_CACHE" in str(caught.value.hint)
        assert list(cache.folder(KIND).iterdir()) == []


@pytest.mark.parametrize("length", [b"Content-Length: %d" % 2**60, b"X: y"])
def test_what_is_larger_than_any_such_file_is_not_taken(
    length: bytes, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetching.LIMIT <= 2**30
    monkeypatch.setattr(fetching, "LIMIT", 2**20)
    with pytest.raises(Error, match=f"at most {2**20}|more than {2**20}"):
        url = serve(without_end(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n", DATA))
        download_file([url], PinnedFile("k3s", HASH), Cache(tmp_path), timeout=0.5)
    assert list((tmp_path / KIND).iterdir()) == []


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device"])
def test_a_source_that_is_not_a_file_is_skipped(kind: str, tmp_path: Path, serve: Serve) -> None:
    place = tmp_path / "place"
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place = Path("/dev/zero")
    with pytest.raises(Unavailable, match=r"not a file|a folder"):
        read_text([str(place)], limit=100)
    url = serve(said(b"200 OK", b"Content-Length: %d" % len(DATA), body=DATA))
    cache = Cache(tmp_path / "cache")
    assert download_file([str(place), place.as_uri(), url], PinnedFile("k3s", HASH), cache).read_bytes() == DATA


@pytest.mark.parametrize(
    "url",
    ["https://me:hush@[bad/k3s", "https://me:hush@host:port/k3s", "https://me:hu#hush@host/k3s",
     "https://me:hu/hush@host:80/k3s", "https://me:12/hush@host/k3s", "https://me:1#hush@host/k3s",
     "HTTPS://me:1?hush@host/k3s"],
)  # fmt: skip
def test_a_malformed_url_does_not_give_its_password_away(url: str, tmp_path: Path) -> None:
    with pytest.raises(Error) as first:
        download_file([url], PinnedFile("k3s", HASH), Cache(tmp_path))
    with pytest.raises(Unavailable) as second:
        read_text([url], limit=100)
    for error in (first.value, second.value):
        assert "hush" not in f"{error} {error.hint}" and "hu#" not in str(error)


def test_only_the_web_and_files_are_asked_for_checksums() -> None:
    with pytest.raises(Unavailable, match="ftp is not supported"):
        read_text(["ftp://127.0.0.1:1/sums"], limit=100)
