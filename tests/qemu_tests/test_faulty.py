"""The failing web server, asked by Python's own client."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faulty_server import ENDLESS, HUGE, Fault, Site, parse_range

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "www").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "www/a.raucb").write_bytes(BODY)
    with Site(tmp_path / "www") as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    yield connection
    connection.close()


def get(client: http.client.HTTPConnection, name: str, ranges: str = "", method: str = "GET") -> tuple[int, bytes]:
    client.request(method, "/" + name, headers={"Range": ranges} if ranges else {})
    answer = client.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("", 200, BODY),
        ("bytes=0-9", 206, BODY[:10]),
        ("bytes=1000-", 206, BODY[1000:]),
        ("bytes=-5", 206, BODY[-5:]),
        ("bytes=1048570-9999999", 206, BODY[-6:]),
        ("bytes=1048576-", 416, b""),
        ("bytes=-0", 416, b""),
    ],
)
def test_a_server_with_no_fault_serves_ranges(
    site: Site, client: http.client.HTTPConnection, asked: str, status: int, body: bytes
) -> None:
    assert get(client, "a.raucb", asked) == (status, body)
    assert get(client, "a.raucb", "bytes=3-3") == (206, BODY[3:4]), "the connection goes on"
    assert site.journal.served["/a.raucb"] == len(body) + 1
    assert site.journal.requests[0].status == status


def test_heads_and_what_is_not_there(site: Site, client: http.client.HTTPConnection, tmp_path: Path) -> None:
    client.request("HEAD", "/a.raucb")
    answer = client.getresponse()
    assert (answer.read(), answer.headers["Content-Length"], answer.headers["Accept-Ranges"]) == (
        b"", str(len(BODY)), "bytes",
    )  # fmt: skip
    for name in ("b.raucb", "../secret", "%2e%2e/secret"):
        assert get(client, name) == (404, b"")
    assert site.publish(tmp_path / "secret") == f"http://10.0.2.2:{site.port}/secret"
    assert get(client, "secret") == (200, b"secret")


def broken(client: http.client.HTTPConnection, ranges: str = "") -> int:
    """How much of an answer came before the connection broke; it must break."""
    client.request("GET", "/a.raucb", headers={"Range": ranges} if ranges else {})
    answer, received = client.getresponse(), 0
    try:
        while chunk := answer.read(4096):
            received += len(chunk)
    except (http.client.IncompleteRead, ConnectionError) as error:
        client.close()
        return received + len(getattr(error, "partial", b""))
    client.close()
    assert answer.length, "the answer is whole"
    return received


def test_an_answer_is_cut_where_it_should_be_and_the_rest_can_be_asked_for(
    site: Site, client: http.client.HTTPConnection
) -> None:
    with site.failing(Fault(cut=100_000, times=2)):
        assert broken(client) <= 100_000
        assert broken(client, "bytes=50-") <= 100_000
        assert get(client, "a.raucb", "bytes=100000-") == (206, BODY[100_000:])


def test_a_fault_begins_after_so_many_bytes(site: Site, client: http.client.HTTPConnection) -> None:
    with site.failing(Fault(status=500, after=300_000, times=1)):
        assert get(client, "a.raucb", "bytes=0-299998")[0] == 206
        assert get(client, "a.raucb", "bytes=0-9")[0] == 206
        assert get(client, "a.raucb", "bytes=0-9") == (500, b"")
        assert get(client, "a.raucb", "bytes=0-9")[0] == 206
    assert get(client, "a.raucb") == (200, BODY)


def test_every_third_request_is_dropped(site: Site) -> None:
    results = []
    with site.failing(Fault(drop=3)):
        for _ in range(9):
            client = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
            try:
                results.append(get(client, "a.raucb", "bytes=0-0")[0])
            except (http.client.HTTPException, ConnectionError):
                results.append(0)
            client.close()
    assert (results.count(0), results.count(206)) == (3, 6)


def test_a_slow_server_takes_its_time(site: Site, client: http.client.HTTPConnection) -> None:
    begin = time.monotonic()
    with site.failing(Fault(pace=200_000)):
        assert get(client, "a.raucb", "bytes=0-99999") == (206, BODY[:100_000])
    assert 0.4 < time.monotonic() - begin < 5


def test_lengths_that_are_not_true(site: Site, client: http.client.HTTPConnection) -> None:
    with site.failing(Fault(longer=10, times=1)), pytest.raises((http.client.IncompleteRead, ConnectionError)):
        get(client, "a.raucb")
    client.close()
    with site.failing(Fault(no_ranges=True)):
        assert get(client, "a.raucb", "bytes=7-8") == (200, BODY)
    with site.failing(Fault(endless=True)):
        client.request("GET", "/a.raucb")
        answer = client.getresponse()
        assert int(answer.headers["Content-Length"]) == HUGE > ENDLESS
        assert answer.read(2 * len(BODY)) == BODY + bytes(len(BODY))
        client.close()


def test_a_server_that_restarts_is_there_again_at_the_same_place(
    site: Site, client: http.client.HTTPConnection
) -> None:
    port = site.port
    with site.failing(Fault(hang=True)):
        client.request("GET", "/a.raucb")
        answer = client.getresponse()
        assert answer.read(1000) == BODY[:1000]
        site.stop()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        client.close()
        with pytest.raises(ConnectionRefusedError):
            get(client, "a.raucb")
        client.close()
        site.start()
    assert site.port == port
    assert get(client, "a.raucb", "bytes=9-9") == (206, BODY[9:10])


def test_ranges_are_those_of_the_standard() -> None:
    assert parse_range("", "5", 10) == (5, 9)
    assert parse_range("", "50", 10) == (0, 9)
    assert parse_range("3", "", 10) == (3, 9)
    assert parse_range("3", "3", 10) == (3, 3)
