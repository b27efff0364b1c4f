"""The client of the management API, without a server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from osbuild.fleet.authorities import load_authority
from osbuild.fleet.client import FleetClient
from osbuild.fleet.contexts import FleetContext
from osbuild.fleet.management.messages import NewAction, NewEnrolmentToken, NewRequest, NewTags
from osbuild.fleet.names import make_path
from osbuild.keys.certificate import to_pem
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.operator_requests import RequestKind

CALLS: list[Callable[[FleetClient, str], object]] = [
    FleetClient.read_device,
    FleetClient.decommission_device,
    FleetClient.create_target_token,
    FleetClient.list_requests,
    FleetClient.revoke_access_token,
    FleetClient.read_rollout,
    lambda client, name: client.create_action(name, NewAction(1)),
    lambda client, name: client.change_tags(name, NewTags({})),
    lambda client, name: client.cancel_action(name, 1),
    lambda client, name: client.change_rollout(name, "start"),
    lambda client, name: client.create_request(name, NewRequest(RequestKind.reboot)),
    lambda client, name: client.create_enrolment_token(NewEnrolmentToken(device=name)),
    lambda client, name: client.publish_bundle(Path(name)),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FleetClient:
    """A client of a server that does not answer."""
    authority = load_authority(tmp_path_factory.mktemp("authority"), "server-ca").certificate
    return FleetClient(FleetContext("https://127.0.0.1:1", to_pem(authority).decode(), "token"))


@pytest.mark.parametrize("name", ["", ".", "..", "a?b", "a#b", "a%2fb", "a\\b", "a\nb", "a\n", "a b", "\x7f"])
@pytest.mark.parametrize("call", CALLS)
def test_no_call_sends_a_name_that_is_not_one_part_of_an_address(
    client: FleetClient, call: Callable[[FleetClient, str], object], name: str
) -> None:
    with pytest.raises(UsageError, match="this is not a name"):
        call(client, name)


@pytest.mark.parametrize("call", CALLS[:-1])
def test_no_call_sends_a_name_with_a_slash_but_others_are_sent(
    client: FleetClient, call: Callable[[FleetClient, str], object]
) -> None:
    with pytest.raises(UsageError, match="this is not a name: 'a/b'"):
        call(client, "a/b")
    with pytest.raises(Error, match="does not answer") as caught:
        call(client, "straße-1.local")
    assert caught.value.status == 1


def test_a_path_has_each_part_quoted() -> None:
    assert make_path("devices", "a:b@c", "actions", 3) == "/devices/a%3Ab%40c/actions/3"
