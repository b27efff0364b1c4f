"""Addresses, logins and queries for hawkBit's management API."""

import socket
from pathlib import Path

import pytest

from osbuild.fleet.hawkbit.management import HawkbitLogin, HawkbitManagement, check_address, quote_value
from osbuild.fleet.hawkbit.rollout import HawkbitRollout
from osbuild.shared.errors import Error, UsageError


@pytest.mark.parametrize(
    "url", ["https://hawkbit.example.com", "http://127.0.0.1:8080", "http://localhost:8080/", "http://[::1]:8080"]
)
def test_https_is_accepted_everywhere_and_http_on_this_host(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://hawkbit.example.com", "http to hawkbit.example.com would send the password as plain text"),
        ("http://127.0.0.1.example.com", "http to 127.0.0.1.example.com would send the password as plain text"),
        ("http://10.0.0.1:8080", "http to 10.0.0.1 would send the password as plain text"),
        ("hawkbit.example.com", "not an address of a hawkBit"),
        ("ftp://hawkbit.example.com", "not an address of a hawkBit"),
        ("https://hawkbit.example.com:port", "not an address of a hawkBit"),
        ("https://hawkbit.example.com/?q=1", "not an address of a hawkBit"),
        ("https://admin:hidden@hawkbit.example.com", "contains a user or a password"),
    ],
)
def test_other_addresses_are_usage_errors(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_address(url)
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("secret", ["hidden", "hidden:", ":hidden"])
def test_a_secret_that_is_not_a_login_is_a_usage_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        HawkbitLogin.parse("https://hawkbit.example.com", secret, None)
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


def test_a_password_may_contain_colons() -> None:
    login = HawkbitLogin.parse("https://hawkbit.example.com/", "DEFAULT\\admin:a:b", None)
    assert (login.url, login.user, login.password) == ("https://hawkbit.example.com", "DEFAULT\\admin", "a:b")


def test_values_of_queries_are_quoted() -> None:
    assert quote_value("it's \\ 1.0") == "'it\\'s \\\\ 1.0'"


def test_a_server_that_is_not_there_and_an_authority_that_is_not_one_are_clear_errors(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(Error, match="hawkBit does not answer") as caught:
        HawkbitManagement(HawkbitLogin(url, "admin", "hidden")).find("/rollouts", HawkbitRollout, name="x")
    assert caught.value.where == url and "hidden" not in str(caught.value)
    (tmp_path / "ca.crt").write_text("nothing")
    for authority in (tmp_path / "ca.crt", tmp_path / "none"):
        with pytest.raises(Error, match="the authority can't be read") as caught:
            HawkbitManagement(HawkbitLogin("https://hawkbit.example.com", "admin", "hidden", authority))
        assert caught.value.where == str(authority)
