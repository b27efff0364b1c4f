"""Untrusted text in messages and in JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from osbuild.shared.quoting import escaped_json


@given(st.dictionaries(st.text(), st.text()))
def test_json_for_a_terminal_has_the_same_meaning_and_only_printable_characters(document: dict[str, str]) -> None:
    shown = escaped_json(json.dumps(document, ensure_ascii=False, indent=2))
    assert json.loads(shown) == document and shown.replace("\n", "").isprintable()


def test_characters_that_a_terminal_obeys_or_turns_are_escapes() -> None:
    assert escaped_json('{"ö": "\x9b2J\u202e\U000e0001"}') == r'{"ö": "\u009b2J\u202e\udb40\udc01"}'
