"""A bundle as one file: fetched from a real server that fails in every way, and gone on with where it was."""

import contextlib
import random
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faulty_server import Fault, Site

from osbuild.agent.commands.server_check import check_server
from osbuild.agent.http import ServerAddress, open_request
from osbuild.agent.system import System
from osbuild.agent.update import download, records
from osbuild.agent.update.failure import Failure
from osbuild.host.http import RequestFailed, send_get
from tests.support.mounted import mount_tmpfs

BODY = random.Random(1).randbytes(3 * 2**20 + 17)
LIMIT = 4 * 2**20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/a.raucb").write_bytes(BODY)
    with Site(tmp_path / "www") as site:
        yield site


@pytest.fixture
def fetch(site: Site, tmp_path: Path) -> Callable[..., int]:
    def fetch(identity: str = "one", *, limit: int = LIMIT, seconds: float = 60.0, patience: float = 5.0) -> int:
        url, end = site.url("a.raucb", host="127.0.0.1"), time.monotonic() + seconds
        bundle = download.BundleDownload(url, identity, limit, end, patience)
        return download.download_bundle(System(tmp_path), bundle, lambda *arguments: None)

    return fetch


def download_to(folder: Path, url: str, identity: str, end: float, *, patience: float = 120.0) -> int:
    bundle = download.BundleDownload(url, identity, LIMIT, end, patience)
    return download.download_bundle(System(folder), bundle, lambda *arguments: None)


def kept(folder: Path) -> bytes:
    return download.download_path(System(folder)).read_bytes()


def test_downloaded_parts_are_not_fetched_again(fetch: Callable[..., int], site: Site, tmp_path: Path) -> None:
    with (
        site.failing(Fault(cut=2**20 + 100, pace=8 * 2**20)),
        pytest.raises(Failure, match="connection was lost") as caught,
    ):
        fetch()
    assert not caught.value.reason.final
    begun = download.downloaded_bytes(System(tmp_path))
    assert 2**19 <= begun <= 2**20 + 100
    assert fetch() == len(BODY) - begun
    assert kept(tmp_path) == BODY
    assert site.journal.requests[-1].first == begun
    count = len(site.journal.requests)
    assert fetch() == 0
    assert len(site.journal.requests) == count


def test_a_partial_download_of_another_file_is_not_continued(
    fetch: Callable[..., int], site: Site, tmp_path: Path
) -> None:
    for change in ("identity", "file"):
        with site.failing(Fault(cut=2**20)), pytest.raises(Failure):
            fetch()
        if change == "file":
            (tmp_path / "www/a.raucb").write_bytes(BODY[::-1])
            with pytest.raises(Failure, match="has changed") as caught:
                fetch()
            assert not caught.value.reason.final
        assert fetch("two" if change == "identity" else "one") == len(BODY)
        assert kept(tmp_path) == (tmp_path / "www/a.raucb").read_bytes()
        records.discard_download(System(tmp_path))
    assert download.downloaded_bytes(System(tmp_path)) == 0


def test_without_range_support_the_whole_file_is_fetched_again(
    fetch: Callable[..., int], site: Site, tmp_path: Path
) -> None:
    with site.failing(Fault(cut=2**20, no_ranges=True)), pytest.raises(Failure):
        fetch()
    with site.failing(Fault(no_ranges=True)):
        assert fetch() == len(BODY)
    assert kept(tmp_path) == BODY


def test_a_power_cut_after_the_file_has_changed_does_not_mix_both_files(
    fetch: Callable[..., int], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object) -> int:
        raise KeyboardInterrupt

    with site.failing(Fault(cut=2**20)), pytest.raises(Failure):
        fetch()
    (tmp_path / "www/a.raucb").write_bytes(BODY[::-1])
    with site.failing(Fault(no_ranges=True)), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "append_body", cut)
        fetch()
    assert download.downloaded_bytes(System(tmp_path)) == 0
    assert fetch() == len(BODY)
    assert kept(tmp_path) == BODY[::-1]


@pytest.mark.parametrize(
    ("fault", "message", "final"),
    [
        (Fault(status=404), "does not have this file", True),
        (Fault(status=403), "refuses to send the file", True),
        (Fault(status=429), "has failed .HTTP 429", False),
        (Fault(status=503), "has failed .HTTP 503", False),
        (Fault(hang=True), "sent nothing for 1 s", False),
        (Fault(drop=1), "connection was lost", False),
        (Fault(longer=5), "connection was lost", False),
        (Fault(endless=True), "more data than the bundle can have", True),
    ],
)
def test_a_failure_has_a_reason_and_says_whether_it_is_final(
    fault: Fault, message: str, final: bool, fetch: Callable[..., int], site: Site
) -> None:
    with site.failing(fault), pytest.raises(Failure, match=message) as caught:
        fetch(patience=1.0)
    assert caught.value.reason.final is final


def test_a_missing_server_a_deadline_and_a_full_disk_end_a_download(
    fetch: Callable[..., int], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Failure, match="deadline has passed"):
        fetch(seconds=0.0)
    records.discard_download(System(tmp_path))
    with pytest.raises(Failure, match="more data than the bundle can have"):
        fetch(limit=len(BODY) - 1)
    folder = download.download_path(System(tmp_path)).parent
    shutil.rmtree(folder)
    with mount_tmpfs(folder, 2**20), pytest.raises(Failure, match="cannot be stored"):
        fetch()
    download.download_path(System(tmp_path)).mkdir()
    assert fetch() == len(BODY), "a folder in place of the file is set aside"
    records.discard_download(System(tmp_path))
    site.stop()
    with pytest.raises(Failure, match="connection was lost"):
        fetch()


class Raw:
    """A server that sends bytes as they are; `slow` ones follow with a pause of 50 ms before each."""

    def __init__(self, answer: bytes, slow: bytes = b"") -> None:
        self.answer, self.slow = answer, slow
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.requests.append(connection.recv(65536))
            connection.sendall(self.answer)
            for byte in self.slow:
                time.sleep(0.05)
                connection.sendall(bytes([byte]))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


OK = b"HTTP/1.1 200 OK\r\n"
PART = b'HTTP/1.1 206 Partial Content\r\nETag: "x"\r\n'
MOVED = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
SENSELESS = {
    "no HTTP": b"SSH-2.0-OpenSSH_10.0\r\n", "nothing": b"", "zeros": bytes(1000), "lines": b"\r\n" * 1000,
    "status of letters": b"HTTP/1.1 OK\r\n\r\n", "status too large": b"HTTP/1.1 2000 OK\r\n\r\n",
    "another status": b"HTTP/1.1 204 No Content\r\n\r\n", "status 299": b"HTTP/1.1 299 X\r\n\r\n",
    "length of letters": OK + b"Content-Length: many\r\n\r\n", "negative": OK + b"Content-Length: -1\r\n\r\n",
    "superscript": OK + b"Content-Length: \xb2\r\n\r\n", "empty length": OK + b"Content-Length: \r\n\r\n",
    "long length": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "float": OK + b"Content-Length: 1e3\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5, 6\r\n\r\nabcde",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
    "range without total": PART + b"Content-Range: bytes 0-4\r\n\r\nabcde", "no range": PART + b"\r\nabcde",
    "range of letters": PART + b"Content-Range: bytes a-b/c\r\n\r\nabcde",
    "range too long": PART + b"Content-Range: bytes 0-9/5\r\n\r\nabcde",
    "range backwards": PART + b"Content-Range: bytes 0-4/0\r\n\r\nabcde",
    "superscript range": PART + b"Content-Range: bytes 0-\xb2/\xb3\r\n\r\nabcde",
    "another unit": PART + b"Content-Range: pages 0-4/5\r\n\r\nabcde",
    "many headers": OK + b"X: y\r\n" * 1000 + b"\r\n", "long header": OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "header without a colon": OK + b"nonsense\r\n\r\n", "cut header": OK + b"Content-Le",
    "redirect nowhere": MOVED[:-10] + b"\r\n", "redirect to nothing": MOVED + b"\r\n\r\n",
    "redirect to a bad host": MOVED + b"http://[::1\r\n\r\n",
    "redirect to a bad port": MOVED + b"http://127.0.0.1:99999/\r\n\r\n",
    "redirect to letters": MOVED + b"http://127.0.0.1:port/\r\n\r\n",
    "redirect to a file": MOVED + b"file:///etc/passwd\r\n\r\n",
    "redirect to ftp": MOVED + b"ftp://127.0.0.1/x\r\n\r\n", "redirect to bytes": MOVED + b"http://\xff\xfe/\r\n\r\n",
    "redirect to data": MOVED + b"data:,x\r\n\r\n", "redirect in a circle": MOVED + b"/a.raucb\r\n\r\n",
    "redirect to a control character": MOVED + b"http://127.0.0.1/\x01\x7f\r\n\r\n",
    "redirect to IDNA": MOVED + b"http://a..b/\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SENSELESS)
def test_an_invalid_answer_is_a_failure_without_traceback(name: str, tmp_path: Path) -> None:
    server = Raw(SENSELESS[name])
    url = f"http://127.0.0.1:{server.port}/a.raucb"
    for begun in (b"", b"abc"):
        if begun:
            records.save_object(System(tmp_path), "download.json", {"identity": "one", "mark": '"x"', "size": 99})
            download.download_path(System(tmp_path)).write_bytes(begun)
        with contextlib.suppress(Failure):
            end = time.monotonic() + 5
            count = download_to(tmp_path, url, "one", end, patience=2.0)
            assert count <= 5
        answer = check_server(url, 2.0)
        assert answer is None or answer.startswith(url)
    server.close()


def test_the_body_of_a_redirect_is_not_read(tmp_path: Path) -> None:
    """However large a server says that it is."""
    server = Raw(b"HTTP/1.1 302 Found\r\nContent-Length: 999999999\r\nLocation: /other\r\n\r\n", b"b" * 9999)
    with pytest.raises(Failure, match="HTTP 302"):
        url = f"http://127.0.0.1:{server.port}/a.raucb"
        download_to(tmp_path, url, "one", time.monotonic() + 20, patience=5.0)
    server.close()
    assert [request.split()[1] for request in server.requests[:2]] == [b"/a.raucb", b"/other"]


@pytest.mark.parametrize(
    ("answer", "slow", "message"),
    [
        (b"", OK * 9999, "sent nothing for 1 s"),
        (OK + b"Content-Length: 9999\r\n", b"X: y\r\n" * 9999, "sent nothing for 1 s"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 9999, "sent nothing for 1 s"),
        (OK + b"Content-Length: 9999\r\n\r\n", b"b" * 9999, "deadline has passed"),
        (OK + b"\r\n", b"b" * 9999, "deadline has passed"),
    ],
)
def test_single_bytes_do_not_extend_a_deadline(answer: bytes, slow: bytes, message: str, tmp_path: Path) -> None:
    server = Raw(answer, slow)
    url, begin = f"http://127.0.0.1:{server.port}/a.raucb", time.monotonic()
    with pytest.raises(Failure, match=message):
        download_to(tmp_path, url, "one", begin + 3, patience=1.0)
    assert time.monotonic() - begin < 6
    begin = time.monotonic()
    assert (check_server(url, 1.0) is None) == (slow == b"b" * 9999)
    assert time.monotonic() - begin < 4
    server.close()


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize(
    "interim", [INTERIM, b"HTTP/1.1 102 Processing\r\n\r\n" + INTERIM, b"HTTP/1.1 100 Continue\r\n\r\n", b""]
)
def test_interim_answers_are_skipped(interim: bytes, tmp_path: Path) -> None:
    server = Raw(interim + OK + b"Content-Length: 5\r\n\r\nabcde")
    url = f"http://127.0.0.1:{server.port}/a.raucb"
    assert download_to(tmp_path, url, "one", time.monotonic() + 5, patience=2.0) == 5
    assert kept(tmp_path) == b"abcde"
    with send_get(url, {}, 2.0) as answer:
        assert (answer.status, answer.read()) == (200, b"abcde")
    assert check_server(url, 2.0) is None
    server.close()


@pytest.mark.parametrize("headers", [b"", b"Content-Length: 0\r\n", b"Content-Le"])
def test_headers_without_an_end_are_no_answer(headers: bytes, tmp_path: Path) -> None:
    server = Raw(OK + headers)
    url = f"http://127.0.0.1:{server.port}/a.raucb"
    with pytest.raises(Failure, match="closed the connection within the headers"):
        download_to(tmp_path, url, "one", time.monotonic() + 5, patience=2.0)
    with pytest.raises(RequestFailed, match="closed the connection within the headers"):
        send_get(url, {}, 2.0)
    assert "closed the connection within the headers" in str(check_server(url, 2.0))
    server.close()


def test_a_body_that_is_cut_at_the_deadline_is_not_complete() -> None:
    server = Raw(OK + b"\r\nabc", slow=b"d" * 100)
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/")
    with pytest.raises(TimeoutError), open_request(request, 2.0, time.monotonic() + 0.5) as answer:
        assert answer.read().startswith(b"abc")
    server.close()


def test_the_password_in_an_address_is_sent_but_never_printed(tmp_path: Path) -> None:
    server = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde")
    url = f"http://me:hidden%20word@127.0.0.1:{server.port}/a.raucb?key=hidden"
    download_to(tmp_path, url, "one", time.monotonic() + 5)
    assert check_server(url, 2.0) is None
    for request in server.requests:
        assert b"Authorization: Basic bWU6aGlkZGVuIHdvcmQ=\r\n" in request
        assert b"/a.raucb?key=hidden " in request
    server.close()
    with pytest.raises(Failure) as caught:
        download_to(tmp_path, url, "two", time.monotonic() + 5)
    for text in (str(caught.value), caught.value.reason.hint, str(check_server(url, 2.0)), ServerAddress(url).shown):
        assert "hidden" not in text
        assert "bWU6" not in text
    assert ServerAddress(url).shown == f"http://127.0.0.1:{server.port}/a.raucb?…"
    for special in ("http://u:p/q@h/x", "https://u:p#q@h/y", "http://u:p?q@h/", "HTTP://u:p@h/x", "http://u:1/q@h/x"):
        assert ServerAddress(special).remote
        for text in (
            ServerAddress(special).shown,
            str(ServerAddress(special).problem),
            str(check_server(special, 0.2)),
        ):
            assert not re.search(r"\bu:|\bp\b|\bq\b", text), text
    for strange in ("http://[", "http://a:b@[::1", "http://\xff:1@x/", "/a/file@b", "http://u@h"):
        assert ":1@" not in ServerAddress(strange).shown
