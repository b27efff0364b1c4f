"""What anybody may send has bounds: the answer is a refusal, never a defect, and the log stays empty."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import LARGEST_ANONYMOUS, MOST_BUFFERED, BodyBudget
from osbuild.shared.operator_requests import LARGEST_ARCHIVE
from tests.support.raw_clients import RawClient, resident_memory, statuses
from tests.support.update_server import BASE, RunningServer, create_token, running_server

DEVICE = f"{BASE}/shop-1"
NESTED = b'{"x":' + b"[" * 3000
HUGE = "9" * 23
DIGITS = "1" * 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bounds")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """A server with a device. It writes nothing to its log."""
    with running_server(folder) as server:
        server.enrol("shop-1", create_token(server), folder).close()
        yield server
    assert server.process.stderr is not None and server.process.stderr.read() == ""


def test_deeply_nested_messages_are_refused_everywhere(server: RunningServer, folder: Path) -> None:
    json = {"content-type": "application/json"}
    with server.anybody() as anybody, server.people() as people, server.client("shop-1", folder) as device:
        answers = [
            *(anybody.post(path, content=NESTED) for path in ("/enrol/v1", "/enrol/v1/renew")),
            device.post(f"{DEVICE}/requests/1/result", content=NESTED),
            device.put(f"{DEVICE}/configData", content=NESTED, headers=json),
            *(
                people.post(path, content=NESTED)
                for path in ("/rollouts", "/tokens", "/enrolment-tokens", "/devices/shop-1/tags")
            ),
        ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert {answer.json().get("code", answer.json().get("errorCode")) for answer in answers} == {"bad-body"}


@pytest.mark.parametrize("number", [HUGE, DIGITS, "-1", "x", "", "1e3", "²"])
def test_a_number_that_no_entry_has_is_refused(server: RunningServer, number: str) -> None:
    with server.people() as people:
        answer = people.get("/audit", params={"before": number})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-parameter")
        assert people.get("/audit", params={"before": "9" * 15}).json() != []


@pytest.mark.parametrize("number", [HUGE, DIGITS, "-1", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_no_number_and_no_text_of_a_client_is_a_defect(server: RunningServer, folder: Path, number: str) -> None:
    with server.people() as people, server.client("shop-1", folder) as device:
        for path in ("/bundles/", "/enrolment-tokens/", "/devices/shop-1/actions/", "/devices/shop-1/tags/"):
            assert people.delete(f"{path}{number}").status_code in (400, 404, 405), path
        assert people.get(f"/requests/{number}").status_code in (400, 404)
        text = (number if number.isdecimal() else '"\\ud800"').encode()
        for path, name in (("devices/shop-1/actions", b"bundle"), ("enrolment-tokens", b"uses"), ("tokens", b"name")):
            body = b'{"' + name + b'": ' + text + b', "role": "viewer"}'
            assert people.post(f"/{path}", content=body).status_code == 400, path
        assert device.get(f"{DEVICE}/deploymentBase/1", params={"actionHistory": number}).status_code in (400, 404)
        assert device.get(f"{DEVICE}/deploymentBase/{number}").status_code in (400, 404)


def test_anonymous_bodies_are_small(server: RunningServer) -> None:
    with server.anybody() as anybody:
        for path in ("/enrol/v1", "/enrol/v1/renew", "/signin"):
            assert anybody.post(path, content=b" " * (LARGEST_ANONYMOUS + 1)).status_code == 413, path
            assert anybody.post(path, content=b" " * LARGEST_ANONYMOUS).status_code in (400, 403), path


def test_unfinished_bodies_of_all_clients_have_a_bound(server: RunningServer, folder: Path) -> None:
    context = server.context()
    context.load_cert_chain(folder / "shop-1.crt", folder / "shop-1.key")
    client, before = RawClient(server, context), resident_memory(server.process.pid)
    head = f"PUT {DEVICE}/requests/1/diagnostics HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST_ARCHIVE}\r\n\r\n"

    async def attack() -> list[bytes]:
        """Return the answers to clients that send all but the last byte, and to one after them."""
        streams = [await client.open() for _ in range(MOST_BUFFERED // LARGEST_ARCHIVE + 3)]
        for _, writer in streams:
            writer.write(head.encode() + bytes(LARGEST_ARCHIVE - 1))
            await writer.drain()
        reading = [asyncio.create_task(reader.read(1000)) for reader, _ in streams]
        done, waiting = await asyncio.wait(reading, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, waiting = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert more
            done |= more
        for task in waiting:
            task.cancel()
        for _, writer in streams:
            writer.transport.abort()
        return [task.result() for task in done]

    answers = asyncio.run(attack())
    assert {status for answer in answers for status in statuses(answer)} == {503}
    assert all(b"retry-after: 10\r\n" in answer for answer in answers)
    assert resident_memory(server.process.pid) - before < 2 * MOST_BUFFERED
    with server.client("shop-1", folder) as device:  # the memory can be used again
        for _ in range(3):
            assert device.put(f"{DEVICE}/requests/1/diagnostics", content=bytes(LARGEST_ARCHIVE)).status_code == 415


def test_a_budget_refuses_what_is_more_than_is_left() -> None:
    budget = BodyBudget(10)
    budget.take(6)
    with pytest.raises(Refused) as caught:
        budget.take(5)
    assert (caught.value.status, caught.value.headers, budget.left) == (503, {"retry-after": "10"}, 4)


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "x"])
def test_a_request_to_change_the_protocol_is_answered_without_a_message(server: RunningServer, protocol: str) -> None:
    """The fixture asserts that the log is empty."""
    request = f"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: {protocol}\r\n\r\n"
    assert statuses(asyncio.run(RawClient(server).send(request.encode(), patience=30))) == [200]


@contextmanager
def sign_in(server: RunningServer, token: str) -> Iterator[httpx.Client]:
    with server.anybody() as client:
        client.headers["origin"] = server.url
        assert client.post("/signin", data={"token": token}).status_code == 303
        yield client


def test_a_form_with_a_strange_token_is_refused(server: RunningServer) -> None:
    with sign_in(server, server.token) as browser:
        for token in ("é", "\udcff".encode("utf-8", "surrogateescape"), "", "\0"):
            answer = browser.post("/signout", data={"csrf": token})
            assert answer.status_code == 403, token
        for name in ("bundle", "success", "error", "pause"):
            form = {"bundle": "1", "success": "1", "error": "1", "pause": "1", "groups": "100", name: HUGE}
            assert browser.post("/rollouts/new", data={"csrf": form_token(browser), **form}).status_code == 400


def form_token(browser: httpx.Client) -> str:
    return browser.get("/rollouts/new").text.partition('name="csrf" value="')[2][:64]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"origin": "https://evil.example"}, 403, id="another origin"),
        pytest.param({"origin": "null"}, 403, id="an origin that is not named"),
        pytest.param({"sec-fetch-site": "cross-site"}, 403, id="another site"),
        pytest.param({"sec-fetch-site": "same-site"}, 403, id="another server of the site"),
        pytest.param({"sec-fetch-site": "same-origin", "origin": "null"}, 303, id="the page itself"),
        pytest.param({}, 303, id="no browser"),
    ],
)
def test_another_site_signs_nobody_in(server: RunningServer, headers: dict[str, str], status: int) -> None:
    with server.anybody() as anybody:
        answer = anybody.post("/signin", data={"token": server.token}, headers=headers)
        assert answer.status_code == status and ("set-cookie" in answer.headers) == (status == 303)


def test_live_pages_end_with_the_session_and_with_the_token(server: RunningServer) -> None:
    token = server.order("/tokens", {"name": "vera", "role": "viewer"})["token"]
    with sign_in(server, server.token) as first, sign_in(server, token) as second:
        with first.stream("GET", "/events") as one, second.stream("GET", "/devices/shop-1/events") as two:
            assert (one.status_code, two.status_code) == (200, 200)
            first_events, second_events = one.iter_raw(), two.iter_raw()
            assert b"still here" in next(first_events) and b"still here" in next(second_events)
            with server.people() as people:
                assert people.delete("/tokens/vera").status_code == 200
            assert b"".join(second_events).endswith(b"data: changed\n\n")
            with server.anybody() as other:
                other.cookies = first.cookies
                assert other.post("/signout", data={"csrf": form_token(other)}).status_code == 303
            assert b"".join(first_events).endswith(b"data: changed\n\n")


def test_a_session_has_few_live_pages(server: RunningServer) -> None:
    async def count() -> tuple[list[int], int]:
        async with httpx.AsyncClient(verify=server.context(), base_url=server.url, timeout=60) as client:
            assert (await client.post("/signin", data={"token": server.token})).status_code == 303
            streams = [client.stream("GET", "/events") for _ in range(22)]
            answers = [await stream.__aenter__() for stream in streams]
            for stream in streams:
                await stream.__aexit__(None, None, None)

            async def ask() -> AsyncIterator[int]:
                for _ in range(60):
                    async with client.stream("GET", "/events") as answer:
                        yield answer.status_code
                    await asyncio.sleep(0.5)

            async for status in ask():  # the server notices after a while that they have ended
                if status == 200:
                    break
            return sorted(answer.status_code for answer in answers), status

    assert asyncio.run(count()) == ([200] * 20 + [429] * 2, 200)
