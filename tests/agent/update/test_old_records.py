"""Records stored by earlier and later versions of the agent are read after a switch."""

import json
from pathlib import Path
from typing import Any

from osbuild.agent.update import history, pending
from osbuild.agent.update.history import UpdateEvent
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.status import update_status
from tests.support.devices import Device

FOLDER = "var/lib/edge-osbuild/update"
# The form of version 0.1.0, before stages and events became enums.
PENDING = """\
{
 "id": "1f0c",
 "kind": "update",
 "stage": "switched",
 "origin": "a",
 "target": "b",
 "before": {
  "version": "1.0.0"
 },
 "after": {
  "version": "1.1.0"
 },
 "source": "/b.raucb",
 "manifest": "hash",
 "downgrade": false,
 "since": "2026-11-01T10:00:00+00:00",
 "facts": {
  "fetched": 1
 },
 "cluster": {},
 "verdict": "",
 "boot": "boot-0"
}
"""
ROW = {"id": "1f0c", "kind": "update", "origin": "a", "target": "b", "before": {"version": "1.0.0"},
       "after": {"version": "1.1.0"}}  # fmt: skip
HISTORY: list[dict[str, Any]] = [
    {"time": "2026-11-01T10:00:00+00:00", "event": "started", **ROW, "source": "/b.raucb"},
    {"time": "2026-11-01T10:01:00+00:00", "event": "not-switched", "why": "no"},
    {"time": "2026-11-01T10:02:00+00:00", "event": "rolled-back", **ROW, "why": "by hand"},
    {"time": "2026-11-01T10:03:00+00:00", "event": "of a later version", **ROW},
]


def test_a_pending_update_of_an_earlier_version_is_read_and_written_unchanged(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.put(f"{FOLDER}/pending.json", PENDING)
    update = pending.load_pending(device.system)
    assert update is not None
    assert update == PendingUpdate(
        "1f0c", UpdateKind.update, UpdateStage.switched, "a", "b", {"version": "1.0.0"}, {"version": "1.1.0"},
        "/b.raucb", "hash", since="2026-11-01T10:00:00+00:00", facts={"fetched": 1}, boot="boot-0",
    )  # fmt: skip
    assert isinstance(update.stage, UpdateStage) and isinstance(update.kind, UpdateKind)
    pending.save_pending(device.system, update)
    assert (tmp_path / FOLDER / "pending.json").read_text() == PENDING
    assert json.loads(json.dumps(update_status(device.context)))["pending"]["stage"] == "switched"


def test_unknown_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.put(f"{FOLDER}/pending.json", json.dumps({**json.loads(PENDING), "of a later version": 1}))
    update = pending.load_pending(device.system)
    assert update is not None and update.stage is UpdateStage.switched


def test_events_of_other_versions_are_kept_and_shown(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.put(f"{FOLDER}/history.jsonl", "".join(json.dumps(row) + "\n" for row in HISTORY))
    assert history.read_history(device.system) == HISTORY
    assert history.read_history(device.system)[2]["event"] == UpdateEvent.rolled_back
    history.append_event(device.system, UpdateEvent.not_switched, why="again")
    lines = (tmp_path / FOLDER / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[:-1]] == HISTORY
    assert json.loads(lines[-1])["event"] == "not-switched"
    assert "of a later version" in history.event_line(HISTORY[3])
