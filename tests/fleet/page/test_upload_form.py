"""The form of an upload: however its body is cut into pieces, the fields and the file are the same."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.fleet.page.upload_form import LARGEST_FIELDS, UploadForm
from osbuild.fleet.refusal import Refused

CONTENTS = b"hsqs\r\n--not a boundary\r\n\0\xff" * 40


def encode(fields: dict[str, str], *files: tuple[str, bytes]) -> tuple[str, bytes]:
    """Return the content type and the body that a client sends."""
    request = httpx.Request(
        "POST", "https://localhost/", data=fields, files=[("bundle", (name, contents)) for name, contents in files]
    )
    return request.headers["content-type"], request.read()


@given(st.lists(st.integers(1, 400), min_size=1))
def test_a_form_is_read_in_pieces(sizes: list[int]) -> None:
    content_type, body = encode({"csrf": "0123", "note": "ö"}, ("new.raucb", CONTENTS))
    form, contents, names, begin, turn = UploadForm(content_type), b"", [], 0, 0
    while begin < len(body):
        pieces = form.feed(body[begin : begin + sizes[turn % len(sizes)]])
        names += [dict(form.fields) for _ in pieces]
        contents += b"".join(pieces)
        begin, turn = begin + sizes[turn % len(sizes)], turn + 1
    assert (form.filename, form.complete, contents) == ("new.raucb", True, CONTENTS)
    assert names and all(fields == {"csrf": "0123", "note": "ö"} for fields in names), "the fields are known first"


def test_a_form_that_ends_early_is_not_complete() -> None:
    content_type, body = encode({"csrf": "0123"}, ("new.raucb", CONTENTS))
    form = UploadForm(content_type)
    form.feed(body[:-10])
    assert not form.complete


def refusal_of(content_type: str, body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        UploadForm(content_type).feed(body)
    return caught.value


def test_hostile_forms_are_refused() -> None:
    good = encode({"csrf": "0123"}, ("new.raucb", CONTENTS))[1]
    assert refusal_of("application/json", good).status == 415
    assert refusal_of("multipart/form-data", good).status == 415
    assert refusal_of("multipart/form-data; boundary=another", good).status == 400
    assert refusal_of(*encode({}, ("a", b"1"), ("b", b"2"))).message == "send one file"
    assert refusal_of(*encode({"csrf": "x" * (LARGEST_FIELDS + 1)}, ("a", b"1"))).status == 413
    assert refusal_of(*encode({f"n{number}": "x" for number in range(LARGEST_FIELDS // 20)}, ("a", b"1"))).status == 413
