"""Orders that the unprivileged part of the agent writes, and root takes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.action_record import ActionRecord, ActionStage
from osbuild.agent.fleet.order import ORDER_FILE, InstallOrder, OrderedInstaller, take_order
from osbuild.agent.system import System

SERVER = "https://updates.example.com:8443"
ORDER = "0e3c6a4e-5f0f-4c0a-9d1e-0a1b2c3d4e5f"
RECORD = ActionRecord("7", ORDER, ActionStage.ordered, f"{SERVER}/f.raucb", "2.0.0")


def test_an_order_is_taken_once(tmp_path: Path) -> None:
    system = System(tmp_path)
    OrderedInstaller(system).order(RECORD)
    assert take_order(system, SERVER) == InstallOrder(ORDER, RECORD.url)
    assert take_order(system, SERVER) is None


def test_an_order_can_be_cancelled_until_it_is_taken(tmp_path: Path) -> None:
    system = System(tmp_path)
    installer = OrderedInstaller(system)
    installer.order(RECORD)
    assert installer.cancel(RECORD)
    assert take_order(system, SERVER) is None
    installer.order(RECORD)
    take_order(system, SERVER)
    assert not installer.cancel(RECORD)


@pytest.mark.parametrize(
    "url",
    [
        "http://updates.example.com:8443/f", "https://updates.example.com/f", "https://other.example.com:8443/f",
        "file:///etc/shadow", "/etc/shadow", "https://u:p@updates.example.com:8443/f",
    ],
)  # fmt: skip
def test_root_installs_only_what_the_server_of_the_seed_offers(tmp_path: Path, url: str) -> None:
    system = System(tmp_path)
    OrderedInstaller(system).order(ActionRecord("7", ORDER, ActionStage.ordered, url, "2.0.0"))
    with pytest.raises(Problem, match="another server"):
        take_order(system, SERVER)
    assert take_order(system, SERVER) is None, "and the order is gone"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 7, "url": "x"}', '{"id": "7"}', "\0" * 100])
def test_a_damaged_order_is_none(tmp_path: Path, content: str) -> None:
    system = System(tmp_path)
    system.path(ORDER_FILE).parent.mkdir(parents=True)
    system.path(ORDER_FILE).write_text(content)
    assert take_order(system, SERVER) is None
    assert not system.path(ORDER_FILE).exists()


@pytest.mark.parametrize("order", ["", "7", "x" * 36, ORDER + "\n", ORDER * 1000])
def test_an_order_without_a_valid_id_is_refused(tmp_path: Path, order: str) -> None:
    system = System(tmp_path)
    OrderedInstaller(system).order(replace(RECORD, order=order))
    with pytest.raises(Problem, match="no valid id"):
        take_order(system, SERVER)


def test_root_follows_no_link_of_the_unprivileged_part(tmp_path: Path) -> None:
    system = System(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"id": ORDER, "url": f"{SERVER}/f"}))
    system.path(ORDER_FILE).parent.mkdir(parents=True)
    system.path(ORDER_FILE).symlink_to(secret)
    assert take_order(system, SERVER) is None
    assert secret.exists() and not system.path(ORDER_FILE).exists()
