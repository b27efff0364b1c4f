"""The measurements of updates: what they conclude from what they see."""

import json
import time
from pathlib import Path

import pytest
from bench import cuts, rollback
from bench.__main__ import GROUPS, MEASUREMENTS, chosen_measurements
from bench.answers import Answers, ask_repeatedly
from bench.download import Fetched
from bench.layout import BundleRange, bundle_ranges, count_bytes
from bench.rollback import ConsoleMoments
from bench.site import BenchSite
from support.faulty_server import Site as Server

from osbuild.host.cache import Cache
from osbuild.shared.errors import Error


def test_what_is_measured_is_chosen_by_name_or_group_in_its_own_order() -> None:
    assert chosen_measurements([]) == list(MEASUREMENTS)
    assert chosen_measurements(["cuts", "cold"]) == ["cold", "cuts"]
    assert chosen_measurements(["updates", "download"]) == list(GROUPS["updates"])


# --- downloads

PARTS = [BundleRange("root.img", 102, 5000), BundleRange("signature", 8192, 9000)]


def test_bytes_are_counted_where_they_lie_and_as_often_as_they_are_sent() -> None:
    assert count_bytes([(0, 4096), (4096, 4096), (8192, 808), (8192, 808)], PARTS) == {
        "root.img": 4898,
        "signature": 1616,
    }
    assert count_bytes([(5000, 3192)], PARTS) == {}


def test_a_download_is_a_share_of_the_bundle_with_its_large_parts() -> None:
    fetched = Fetched(100_000, 1_010, {"a": 400, "b": 600, "c": 10}, 9, {})
    rows = [(figure.name, figure.value, figure.status) for figure in fetched.figures("x", "title", 1)]
    assert rows == [("download_x", 1.01, "OVER"), ("download_x_b", 0.6, ""), ("download_x_a", 0.4, "")]


@pytest.mark.parametrize("data", [b"", b"hsqs" + bytes(20), b"not a bundle".ljust(200)])
def test_a_file_that_is_not_a_bundle_is_reported_as_such(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.raucb").write_bytes(data)
    with pytest.raises(Error, match="no bundle"):
        bundle_ranges(tmp_path / "f.raucb")


# --- downtime


def test_the_downtime_is_the_longest_time_without_an_answer() -> None:
    answers = Answers([1.0, 9.0, 10.0, 13.0, 14.0, 30.0])
    assert answers.gap(9.0, 20.0) == (10.0, 13.0)
    with pytest.raises(Error, match="1 times"):
        answers.gap(25.0, 40.0)


def test_a_server_is_asked_until_it_answers_again(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here")
    with Server(tmp_path) as server:
        server.published["/"] = tmp_path / "index.html"
        with ask_repeatedly(server.port) as answers:
            begin = answers.wait(10)
            server.restart(1.0)
            answers.wait(10)
            before, after = answers.gap(begin, time.monotonic())
            assert 1.0 <= after - before < 8.0
            server.published.clear()  # from now on it answers 404, which is no good answer
            time.sleep(0.5)
            count = len(answers.moments)
            time.sleep(0.7)
            assert len(answers.moments) == count


# --- rollbacks


def test_moments_are_kept_of_whole_lines_that_come_in_pieces() -> None:
    watch = ConsoleMoments({"failed": rollback.FAULTS["unhealthy"][1], "back": rollback.BACK})
    for piece in (
        b"edge-osbuild: boot fai",
        b"led: x 1.2 slot b not healthy\r\nx\r\n",
        b"\redge-osbuild: boot complete: ",
    ):
        watch.hear(piece)
    assert {name: len(times) for name, times in watch.moments.items()} == {"failed": 1}
    watch.hear(b"x 1.0.0 slot a healthy after 60 s\r\nedge-osbuild: boot complete: x 1.2 slot b healthy\n")
    assert {name: len(times) for name, times in watch.moments.items()} == {"failed": 1, "back": 1}


# --- power cuts


@pytest.fixture
def site(tmp_path: Path) -> BenchSite:
    return BenchSite(tmp_path, tmp_path, Cache(tmp_path / "cache"))


def write(site: BenchSite, name: str, *, held: bool = True, **figures: int) -> None:
    folder = site.results / cuts.LEDGER
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"held": held, "date": "2026-01-02", "figures": figures}))


def test_power_cuts_that_were_not_tried_give_no_figures(site: BenchSite) -> None:
    measured = cuts.measure(site)
    assert not measured.figures and len(measured.notes) == 4 and all("have not run" in note for note in measured.notes)


def test_power_cuts_are_read_from_what_the_tests_have_written(site: BenchSite) -> None:
    write(site, "power-random", cuts=8, survived=8)
    write(site, "flush-states", flushes=90, states=400, bad=0)
    measured = cuts.measure(site)
    assert [(figure.value, figure.status) for figure in measured.figures] == [(8, ""), (0, "ok"), (400, ""), (0, "ok")]
    assert "2026-01-02" in measured.notes[0] and "2026-01-02" in measured.notes[-1]
    write(site, "power-cluster-back", cuts=4, survived=3)
    assert [figure.value for figure in cuts.measure(site).figures] == [8, 0, 4, 1, 400, 0]


def test_a_test_of_power_cuts_that_failed_is_over_its_target_whatever_it_has_counted(site: BenchSite) -> None:
    write(site, "power-random", held=False)
    write(site, "flush-states", held=False, states=400, bad=7)
    measured = cuts.measure(site)
    assert [figure.value for figure in measured.figures] == [0, 1, 400, 7]
    assert [figure.over for figure in measured.figures] == [False, True, False, True]
    assert "FAILED" in measured.notes[0] and "FAILED" in measured.notes[-1]


def test_a_damaged_ledger_is_an_error(site: BenchSite) -> None:
    write(site, "power-random", cuts=8, survived=8)
    (site.results / cuts.LEDGER / "power-random.json").write_text("{}")
    with pytest.raises(Error, match="damaged"):
        cuts.measure(site)
