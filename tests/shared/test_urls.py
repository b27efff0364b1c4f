"""What messages and records show of a URL."""

import pytest

from osbuild.shared.urls import redact_url, redact_urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/x", "https://host/x"),
        ("https://host:80/x?a=b#c", "https://host:80/x?…"),
        ("https://u:pw@host/x", "https://host/x"),
        ("HTTP://u:pw@host/x", "http://host/x"),
        ("  http://u:pw@host/x", "http://host/x"),
        ("http://u:p/q@host/x", "http://…"),
        ("https://u:p#q@host/x", "https://…"),
        ("http://u:p?q@host/", "http://…"),
        ("http://u:123/q@host/x", "http://…"),
        ("http://u:1#q@host/x", "http://…"),
        ("http://u:1?q@host/x", "http://…"),
        ("http:/u:pw@host/x", "http://…"),
        ("http://[u:pw@host", "http://…"),
        ("http://u:pw@ho\u2100st/x", "http://…"),
        ("/a/file@b", "/a/file@b"),
        ("file:///a/file@b", "file:///a/file@b"),
        ("direct", "direct"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


def test_urls_in_the_message_of_a_library_have_no_secrets_either() -> None:
    text = "proxy URL with no authority: 'http:/u:pw@host', http://u:pw@a/b: 404; /c:d@e, https://h/x?key=pw."
    assert redact_urls(text) == "proxy URL with no authority: 'http://…', http://a/b: 404; /c:d@e, https://h/x?…."
