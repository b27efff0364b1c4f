"""Polls of a device one after the other: each starts with the state and the files of the last one."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.identity import identity_files
from osbuild.agent.fleet.poll import CHECK_IDENTITY, PollState, poll_once
from osbuild.agent.health import RESULT_FILE
from osbuild.agent.system import System
from osbuild.keys.key_folder import load_keys
from osbuild.shared.image_description import DESCRIPTION_FILE
from osbuild.shared.node_settings import AGENT_FILE
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def make_system(root: Path, server: RunningServer, node: str, url: str | None = None) -> System:
    system = System(root)
    seed = {
        "node": node, "server": url or server.url, "offline": False, "enrolment": create_token(server),
        "authority": (server.data / "tls/server-ca.crt").read_text(),
    }  # fmt: skip
    for name, document in ((AGENT_FILE, seed), (DESCRIPTION_FILE, {"name": "edge-server", "version": "1.0.0"})):
        system.path(name).parent.mkdir(parents=True, exist_ok=True)
        system.path(name).write_text(json.dumps(document))
    return system


def attribute_changes(server: RunningServer, node: str) -> dict[str, str]:
    with server.people() as people:
        return dict(people.get(f"/devices/{node}").json()["attributes"])


def test_a_device_enrols_at_the_first_poll_and_describes_itself_once(server: RunningServer, tmp_path: Path) -> None:
    system = make_system(tmp_path, server, "poll-one")
    state, pause = poll_once(system, AGENT_FILE, PollState())
    assert (state.failures, bool(state.described), pause) == (0, True, 300)
    assert attribute_changes(server, "poll-one")["version"] == "1.0.0"
    certificate = identity_files(system).certificate.read_bytes()
    assert poll_once(system, AGENT_FILE, state) == (state, 300), "the identity is not checked again on the same day"
    assert identity_files(system).certificate.read_bytes() == certificate


def test_the_identity_is_checked_again_after_a_day(server: RunningServer, tmp_path: Path) -> None:
    system = make_system(tmp_path, server, "poll-two")
    state, _ = poll_once(system, AGENT_FILE, PollState())
    assert state.identity_checked is not None
    yesterday = state.identity_checked - CHECK_IDENTITY
    again, _ = poll_once(system, AGENT_FILE, replace(state, identity_checked=yesterday))
    assert again.identity_checked is not None and again.identity_checked >= state.identity_checked


def test_attributes_that_have_changed_are_reported_at_the_next_poll(server: RunningServer, tmp_path: Path) -> None:
    system = make_system(tmp_path, server, "poll-four")
    state, _ = poll_once(system, AGENT_FILE, PollState())
    before = attribute_changes(server, "poll-four")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", before["certificate_expires"])
    settings = json.loads(system.path(AGENT_FILE).read_text())
    changed = {**settings, "attributes": {"site": "Oslo"}, "facts": ["cpus", "a-fact-of-a-later-version"]}
    system.path(AGENT_FILE).write_text(json.dumps(changed))
    state, _ = poll_once(system, AGENT_FILE, state)
    attributes = attribute_changes(server, "poll-four")
    assert attributes.keys() - before.keys() == {"site", "cpus"} and attributes["site"] == "Oslo"
    system.path(AGENT_FILE).write_text(json.dumps(settings))
    poll_once(system, AGENT_FILE, state)
    assert attribute_changes(server, "poll-four").keys() == before.keys()


def test_what_was_installed_without_the_server_is_reported_later(server: RunningServer, tmp_path: Path) -> None:
    system = make_system(tmp_path, server, "poll-five")
    state, _ = poll_once(system, AGENT_FILE, PollState())
    make_bundle(tmp_path / "stick.raucb", load_keys(server.data.parent / "keys"), "1.7.0")
    action = server.order_update("poll-five", tmp_path / "stick.raucb")
    with server.people() as people:
        people.delete(f"/devices/poll-five/actions/{action}")
    state, _ = poll_once(system, AGENT_FILE, state)
    assert server.actions("poll-five") == [(action, "cancelled")]
    # A boot of the version that was installed from a file, first before its verdict and then after it.
    system.path(DESCRIPTION_FILE).write_text(json.dumps({"name": "edge-server", "version": "1.7.0"}))
    poll_once(system, AGENT_FILE, PollState())
    assert server.actions("poll-five") == [(action, "cancelled")]
    system.path(RESULT_FILE).parent.mkdir(parents=True)
    system.path(RESULT_FILE).write_text(json.dumps({"healthy": True}))
    for _ in range(2):
        state, _ = poll_once(system, AGENT_FILE, PollState())
        assert state.failures == 0 and attribute_changes(server, "poll-five")["version"] == "1.7.0"
        assert server.actions("poll-five") == [(action + 1, "finished"), (action, "cancelled")]
    system.path(DESCRIPTION_FILE).write_text(json.dumps({"name": "edge-server", "version": "unpublished"}))
    state, _ = poll_once(system, AGENT_FILE, state)
    assert state.failures == 0 and attribute_changes(server, "poll-five")["version"] == "unpublished"


def test_failures_are_counted_and_the_pauses_grow(server: RunningServer, tmp_path: Path) -> None:
    system = make_system(tmp_path, server, "poll-three")
    state, _ = poll_once(system, AGENT_FILE, PollState())
    settings = json.loads(system.path(AGENT_FILE).read_text())
    system.path(AGENT_FILE).write_text(json.dumps({**settings, "server": "https://127.0.0.1:1"}))
    pauses = []
    for failures in range(1, 5):
        state, pause = poll_once(system, AGENT_FILE, state)
        assert state.failures == failures
        pauses.append(pause)
    assert pauses[3] > pauses[0]
    system.path(AGENT_FILE).write_text(json.dumps(settings))
    state, pause = poll_once(system, AGENT_FILE, state)
    assert (state.failures, pause) == (0, 300)


def test_a_seed_without_a_server_is_a_problem_of_this_device(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="names no update server"):
        poll_once(System(tmp_path), AGENT_FILE, PollState())
