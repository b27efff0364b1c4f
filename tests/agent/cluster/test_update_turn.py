"""When a server may be updated. The Lease itself is tested with real servers (qemu-tests/test_servers.py)."""

import datetime

import pytest

from osbuild.agent.cluster.update_turn import DURATION, has_expired, needed_servers

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(("count", "others"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_majority_of_servers_stays(count: int, others: int) -> None:
    assert needed_servers(count) == others


@pytest.mark.parametrize(
    ("spec", "expired"),
    [
        ({"renewTime": "2026-11-30T11:59:00.000000Z", "leaseDurationSeconds": DURATION}, False),
        ({"renewTime": "2026-11-30T10:59:59.000000Z", "leaseDurationSeconds": DURATION}, True),
        ({"renewTime": "2026-11-30T12:30:00.000000Z", "leaseDurationSeconds": DURATION}, False),
        ({"renewTime": "soon", "leaseDurationSeconds": DURATION}, True),
        ({"holderIdentity": "server-1"}, True),
    ],
)
def test_a_turn_ends_by_itself(spec: dict[str, object], expired: bool) -> None:
    assert has_expired(spec, NOW) == expired
