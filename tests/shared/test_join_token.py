"""The forms of join tokens, which are those of K3s."""

import pytest

from osbuild.shared.join_token import JoinToken, format_token, hash_authority, parse_token

HASH = hash_authority(b"PEM")


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("any secret: of two::words", JoinToken("any secret: of two::words")),
        ("abcdef.0123456789abcdef", JoinToken("abcdef.0123456789abcdef", identifier="abcdef")),
        (f"K10{HASH}::node:pass:word", JoinToken("pass:word", "node", HASH)),
        (f"K10{HASH}::abcdef.0123456789abcdef", JoinToken("abcdef.0123456789abcdef", "", HASH, "abcdef")),
        ("K10::node:password", JoinToken("password", "node")),
    ],
)
def test_full_short_and_created_tokens_are_understood(text: str, token: JoinToken) -> None:
    assert parse_token(text) == token


@pytest.mark.parametrize(
    "text",
    ["", "K10", f"K10{HASH}", f"K10{HASH[1:]}::node:secret", f"K10{HASH}::node", f"K10{HASH}::node:", "K10x::a:b"],
)
def test_a_token_that_was_not_copied_completely_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"copied completely|is empty") as caught:
        parse_token(text)
    assert "secret" not in str(caught.value)


def test_a_full_token_is_that_of_k3s() -> None:
    """`K10`, the SHA-256 of the authority's file, `::` and the credentials."""
    assert hash_authority(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert parse_token(format_token(b"PEM", "node:secret")) == JoinToken("secret", "node", HASH)
