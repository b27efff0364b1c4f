"""The page that the failure matrix is shown on."""

from pathlib import Path

import pytest
from support.ledger import Ledger, format_page, read_rows


def test_each_case_is_a_row_and_one_that_did_not_hold_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.entry("power", "random") as entry:
        entry.figures = {"cuts": 20, "survived": 20}
    with pytest.raises(AssertionError), ledger.entry("image", "panic"):
        raise AssertionError
    text = format_page(read_rows(tmp_path))
    assert "1 of 2 cases held" in text
    assert "| random | yes | 0 |  | 20 cuts, 20 survived |" in text
    assert "| panic | NO | 0 |" in text
    assert text.index("image that is broken") < text.index("Power cuts")
    with ledger.entry("image", "panic") as entry:
        entry.seconds = 61.0
    text = format_page(read_rows(tmp_path))
    assert "2 of 2 cases held" in text and "| panic | yes | 61 |" in text


def test_cases_of_an_earlier_run_stay_until_they_run_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "first")
    for case in ("lost", "slow"):
        with ledger.entry("connection", case):
            pass
    previous = [{**row, "date": "2026-01-01"} for row in read_rows(tmp_path / "first")]
    with pytest.raises(AssertionError), Ledger(tmp_path / "second").entry("connection", "slow"):
        raise AssertionError
    rows = read_rows(tmp_path / "second", previous)
    assert [(row["case"], row["held"]) for row in rows] == [("lost", True), ("slow", False)]
    assert "1 of 2 cases held, 2026-01-01 to 20" in format_page(rows)
