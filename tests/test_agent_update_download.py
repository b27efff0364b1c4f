"""A bundle as one file: fetched from a real server that fails in every way, and gone on with where it was."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import Fault, Site

from osbuild.agent.system import System
from osbuild.agent.update import download, state
from osbuild.agent.update.reason import Failure

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
        return download.fetch(System(tmp_path), url, identity, limit, end, lambda *words: None, patience=patience)

    return fetch


def kept(folder: Path) -> bytes:
    return download.path(System(folder)).read_bytes()


def test_what_is_there_is_not_fetched_again(fetch: Callable[..., int], site: Site, tmp_path: Path) -> None:
    with (
        site.failing(Fault(cut=2**20 + 100, pace=8 * 2**20)),
        pytest.raises(Failure, match="connection was lost") as found,
    ):
        fetch()
    assert not found.value.reason.final
    begun = download.have(System(tmp_path))
    assert 2**19 <= begun <= 2**20 + 100
    assert fetch() == len(BODY) - begun
    assert kept(tmp_path) == BODY
    assert site.journal.requests[-1].first == begun
    count = len(site.journal.requests)
    assert fetch() == 0
    assert len(site.journal.requests) == count


def test_what_is_of_another_bundle_or_file_is_not_gone_on_with(
    fetch: Callable[..., int], site: Site, tmp_path: Path
) -> None:
    for change in ("identity", "file"):
        with site.failing(Fault(cut=2**20)), pytest.raises(Failure):
            fetch()
        if change == "file":
            (tmp_path / "www/a.raucb").write_bytes(BODY[::-1])
            with pytest.raises(Failure, match="another file now") as found:
                fetch()
            assert not found.value.reason.final
        assert fetch("two" if change == "identity" else "one") == len(BODY)
        assert kept(tmp_path) == (tmp_path / "www/a.raucb").read_bytes()
        state.discard(System(tmp_path))
    assert download.have(System(tmp_path)) == 0


def test_a_server_without_ranges_sends_all_again(fetch: Callable[..., int], site: Site, tmp_path: Path) -> None:
    with site.failing(Fault(cut=2**20, no_ranges=True)), pytest.raises(Failure):
        fetch()
    with site.failing(Fault(no_ranges=True)):
        assert fetch() == len(BODY)
    assert kept(tmp_path) == BODY


def test_a_cut_between_two_files_of_a_server_leaves_no_mixture(
    fetch: Callable[..., int], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*words: object) -> int:
        raise KeyboardInterrupt

    with site.failing(Fault(cut=2**20)), pytest.raises(Failure):
        fetch()
    (tmp_path / "www/a.raucb").write_bytes(BODY[::-1])
    with site.failing(Fault(no_ranges=True)), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "copy", cut)
        fetch()
    assert download.have(System(tmp_path)) == 0
    assert fetch() == len(BODY)
    assert kept(tmp_path) == BODY[::-1]


@pytest.mark.parametrize(
    ("fault", "said", "final"),
    [
        (Fault(status=404), "does not have it", True),
        (Fault(status=403), "refuses to send it", True),
        (Fault(status=429), "fails .HTTP 429", False),
        (Fault(status=503), "fails .HTTP 503", False),
        (Fault(hang=True), "sent nothing for 1 s", False),
        (Fault(drop=1), "connection was lost", False),
        (Fault(longer=5), "connection was lost", False),
        (Fault(endless=True), "more than the bundle can have", True),
    ],
)
def test_a_failure_says_what_it_is_and_whether_to_go_on(
    fault: Fault, said: str, final: bool, fetch: Callable[..., int], site: Site
) -> None:
    with site.failing(fault), pytest.raises(Failure, match=said) as found:
        fetch(patience=1.0)
    assert found.value.reason.final is final


def test_no_server_a_deadline_and_a_full_disk_end_it(
    fetch: Callable[..., int], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Failure, match="in time"):
        fetch(seconds=0.0)
    state.discard(System(tmp_path))
    with pytest.raises(Failure, match="more than the bundle can have"):
        fetch(limit=len(BODY) - 1)
    download.path(System(tmp_path)).mkdir()
    with pytest.raises(Failure, match="can't be kept"):
        fetch()
    site.stop()
    download.path(System(tmp_path)).rmdir()
    with pytest.raises(Failure, match="connection was lost"):
        fetch()
