"""Uploads that end badly: the disk keeps its reserve, and no file stays behind."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from osbuild.fleet.publishing import RESERVE
from osbuild.keys.key_folder import load_keys
from tests.support import mounted
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import RunningServer, running_server, start_server

MIB = 2**20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on a disk with room for 64 MiB and the reserve."""
    folder = tmp_path_factory.mktemp("small") / "disk"
    with mounted.mount_tmpfs(folder, RESERVE + 64 * MIB) as disk, running_server(disk) as server:
        yield server


def send_pieces(pieces: int) -> Iterator[bytes]:
    for _ in range(pieces):
        yield bytes(MIB)


def stored(server: RunningServer) -> list[str]:
    return sorted(path.name for path in (server.data / "files").iterdir())


@needs_root
@pytest.mark.parametrize("pieces", [40, 80, 400])
def test_an_upload_in_chunks_leaves_the_reserve(small: RunningServer, pieces: int) -> None:
    with small.people() as people:
        try:
            answer = people.put("/bundles/new.raucb", content=send_pieces(pieces))
        except httpx.WriteError:  # the server has answered while this client was still sending
            pytest.fail("the answer was lost")
        entry = people.get("/audit").json()[0]
    assert (answer.status_code, answer.json()["code"]) == (507, "disk-full")
    assert (entry["who"], entry["event"], entry["subject"]) == ("admin", "publish refused", "new.raucb")
    assert entry["details"]["reason"] == answer.json()["message"]
    assert stored(small) == []


@needs_root
def test_a_form_leaves_the_reserve(small: RunningServer) -> None:
    with small.anybody() as browser:
        browser.headers["origin"] = small.url
        assert browser.post("/signin", data={"token": small.token}).status_code == 303
        match = re.search(r'name="csrf" value="(\w+)"', browser.get("/bundles").text)
        assert match
        request = browser.build_request(
            "POST", "/bundles", data={"csrf": match[1]}, files={"bundle": ("new.raucb", bytes(80 * MIB))}
        )
        body = request.read()
        pieces = (body[begin : begin + MIB] for begin in range(0, len(body), MIB))
        answer = browser.post("/bundles", content=pieces, headers={"content-type": request.headers["content-type"]})
    assert answer.status_code == 507 and "has no room" in answer.text and stored(small) == []


@needs_root
def test_a_bundle_that_has_room_is_published_beside_the_reserve(small: RunningServer, tmp_path: Path) -> None:
    content = make_bundle(tmp_path / "one.raucb", load_keys(small.data.parent / "keys"), "1.0.0", blocks=3000)
    pieces = (content[begin : begin + MIB] for begin in range(0, len(content), MIB))
    with small.people() as people:
        answer = people.put("/bundles/one.raucb", content=pieces)
    assert answer.status_code == 200 and stored(small) == [answer.json()["sha256"]]


@needs_root
def test_the_file_of_an_upload_is_removed_if_its_last_bytes_have_no_room(tmp_path: Path) -> None:
    """The last bytes are still in memory when the upload ends, and the disk is full by then."""
    with mounted.mount_tmpfs(tmp_path / "disk", RESERVE + 64 * MIB) as disk, running_server(disk) as server:

        def send() -> Iterator[bytes]:
            yield bytes(1000)
            mounted.fill(disk)
            for _ in range(20):
                yield bytes(1000)

        with server.people() as people:
            answer = people.put("/bundles/new.raucb", content=send())
        assert (answer.status_code, answer.json()["code"]) == (507, "disk-full")
        assert stored(server) == []


def test_what_an_interrupted_upload_has_left_is_removed_at_the_start(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        files = server.data / "files"
    for name in (".upload-x", ".new-y", "0" * 64, "README"):
        (files / name).write_bytes(bytes(100))
    again = start_server(tmp_path / "fleet")
    try:
        assert stored(again) == ["0" * 64, "README"]
    finally:
        again.process.terminate()
        assert again.process.wait(30) == 0
