"""What a seed says about the update server."""

import json
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.settings import FleetSettings, load_settings
from osbuild.agent.system import System
from osbuild.shared.node_settings import AGENT_FILE

COMPLETE = {
    "node": "shop-17", "server": "https://updates.example.com:8443/", "offline": True, "authority": "PEM",
    "enrolment": "token", "format": 2,
}  # fmt: skip


def system_with(tmp_path: Path, **changes: object) -> System:
    system = System(tmp_path)
    system.path(AGENT_FILE).parent.mkdir(parents=True)
    system.path(AGENT_FILE).write_text(json.dumps({**COMPLETE, **changes}))
    return system


def test_the_base_is_the_address_of_this_device(tmp_path: Path) -> None:
    settings = load_settings(system_with(tmp_path))
    assert settings == FleetSettings("shop-17", "https://updates.example.com:8443/", "PEM", "token")
    assert settings.base == "https://updates.example.com:8443/DEFAULT/controller/v1/shop-17"


def test_a_target_token_becomes_a_header(tmp_path: Path) -> None:
    settings = load_settings(system_with(tmp_path, enrolment=None, token="0f0f"))
    assert settings is not None and settings.token is None and settings.authorization == "TargetToken 0f0f"


@pytest.mark.parametrize("missing", ["server", "authority"])
def test_without_a_server_and_its_authority_nothing_is_followed(tmp_path: Path, missing: str) -> None:
    assert load_settings(system_with(tmp_path, **{missing: None})) is None
    assert load_settings(System(tmp_path / "empty")) is None


@pytest.mark.parametrize("changes", [{"server": "http://updates.example.com"}, {"node": ""}, {"enrolment": 7}])
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(Problem):
        load_settings(system_with(tmp_path, **changes))
