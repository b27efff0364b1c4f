"""The page that the failure matrix is shown on."""

from pathlib import Path

import pytest
from ledger import Ledger, page


def test_each_case_is_a_row_and_one_that_did_not_hold_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.entry("power", "random") as entry:
        entry.figures = {"cuts": 20, "survived": 20}
    with pytest.raises(AssertionError), ledger.entry("image", "panic"):
        raise AssertionError
    text = page(tmp_path)
    assert "1 of 2 cases held" in text
    assert "| random | yes | 0 |  | 20 cuts, 20 survived |" in text
    assert "| panic | NO | 0 |" in text
    assert text.index("image that is broken") < text.index("Power cuts")
    with ledger.entry("image", "panic") as entry:
        entry.seconds = 61.0
    assert "2 of 2 cases held" in page(tmp_path) and "| panic | yes | 61 |" in page(tmp_path)
