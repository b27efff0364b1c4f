"""The contract between seed and agent: an older slot boots with a newer seed, and a newer slot with an older one."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.settings import SEED_FILE, load_settings, report_unknown
from osbuild.shared.node_settings import FORMAT, AgentSeed, KubernetesSeed, NodeSettings, unknown_settings
from osbuild.shared.records import parse_record, record_to_json

# As version 0.1.0 wrote it.
SEED: dict[str, Any] = {"token": "s3cret", "labels": {"site": "a"}, "taints": ["a=b:NoSchedule"], "config": {"x": [1]}}


def node(root: Path, seed: dict[str, Any]) -> Path:
    path = root / SEED_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(seed))
    return root


def test_a_seed_of_an_earlier_version_is_read_and_written_unchanged(tmp_path: Path) -> None:
    assert record_to_json(parse_record(KubernetesSeed, SEED)) == SEED
    settings = load_settings(node(tmp_path, SEED))
    assert (settings.token, settings.labels, settings.taints) == ("s3cret", {"site": "a"}, ("a=b:NoSchedule",))
    agent = {"node": "node-1", "server": None, "offline": True}
    assert record_to_json(parse_record(AgentSeed, agent)) == agent


def test_the_agent_reads_every_setting_of_a_seed() -> None:
    written = {item.name for item in fields(KubernetesSeed)} - {"format"}
    assert written <= {item.name for item in fields(NodeSettings)}


def test_settings_of_a_later_version_are_kept_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = {**SEED, "format": FORMAT + 1, "zone": {"a": 1}}
    root = node(tmp_path, later)
    settings = load_settings(root)
    assert settings.token == "s3cret"
    assert settings.extra["zone"] == {"a": 1}
    report_unknown(root)
    messages = capsys.readouterr().err
    assert "`zone` has no effect" in messages
    assert f"have the format {FORMAT + 1}" in messages
    assert json.loads((root / SEED_FILE).read_text()) == later, "a later slot finds it again"
    assert record_to_json(parse_record(KubernetesSeed, later)) == later


def test_settings_of_this_version_are_not_reported() -> None:
    assert unknown_settings({**SEED, "format": FORMAT}, KubernetesSeed) == []
    assert unknown_settings({"node": "n", "server": None, "offline": True}, AgentSeed) == []


@pytest.mark.parametrize(("change", "message"), [({"labels": []}, "`labels`"), ({"taints": "a"}, "`taints`")])
def test_a_setting_of_a_wrong_type_is_reported(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        load_settings(node(tmp_path, {**SEED, **change}))
    assert caught.value.where == SEED_FILE
